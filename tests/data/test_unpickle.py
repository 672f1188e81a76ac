"""Bad input 15a: a CIFAR file is a pickle, and nothing in it may run."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from tailkeep.data.unpickle import restricted_loads
from tailkeep.errors import BAD_INPUT, BadInput


class Calls:
    """Calls ``function(*arguments)`` when it is unpickled by Python's own unpickler."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_python_3_writes(protocol, rng):
    pixels = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
    content = {b"data": pixels, b"labels": [0, 9, 3], "text": "x", b"more": {b"a": [1.5, None, True]}}
    read = restricted_loads(pickle.dumps(content, protocol=protocol), "f")
    assert read.keys() == content.keys()
    assert np.array_equal(read[b"data"], pixels)
    assert read[b"data"].dtype == np.uint8
    assert (read[b"labels"], read["text"], read[b"more"]) == ([0, 9, 3], "x", {b"a": [1.5, None, True]})


def test_what_python_2_wrote():
    # The official files: str as SHORT_BINSTRING, numpy of 2009 (its module is numpy.core), protocol 2.
    raw = bytes(range(6))
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x06" + raw + b"tb"
    )
    read = restricted_loads(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x06K\x09eu.", "f")
    assert read[b"data"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read[b"labels"] == [6, 9]


@pytest.mark.parametrize("dtype", ["<i2", ">i4", "f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_plain_numbers(dtype, order):
    array = np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    read = restricted_loads(pickle.dumps({"a": array}, protocol=2), "f")["a"]
    assert np.array_equal(read, array)
    assert read.dtype == array.dtype


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_15a_nothing_runs(tmp_path, protocol):
    marker = tmp_path / "sprung"
    traps = {
        "system": Calls(os.system, f"touch {marker}"),
        "builtins.eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "builtins.exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Calls(getattr, Path(marker), "touch"),
        "pathlib": Calls(Path.touch, marker),
        "numpy": Calls(np.save, str(marker), np.zeros(1)),
    }
    for asked, trap in traps.items():
        data = pickle.dumps({b"data": trap, b"labels": []}, protocol=protocol)
        with pytest.raises(BadInput, match=r"data_batch_1: refused, it asks for ") as caught:
            restricted_loads(data, "data_batch_1")
        assert caught.value.exit_code == BAD_INPUT
        assert asked.removeprefix("builtins.") in str(caught.value) or "getattr" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    # The traps are real: Python's own unpickler springs one.
    pickle.loads(pickle.dumps(traps["system"], protocol=protocol))
    assert marker.exists()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"cos\nsystem\n(S'touch MARK'\ntR.", "os.system"),
        (b"cposix\nsystem\n(S'touch MARK'\ntR.", "posix.system"),
        (b"(S'touch MARK'\nios\nsystem\n.", "os.system"),  # INST
        (b"(cos\nsystem\nS'touch MARK'\no.", "os.system"),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ntouch MARK\x85R.", "os.system"),  # STACK_GLOBAL
        (b"\x80\x04\x8c\x05numpy\x8c\x0bcore.os.foo\x93.", "numpy.core.os.foo"),  # a dotted name walks attributes
        (b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__x\x93.", "numpy.ndarray.__class__x"),
        (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"c_codecs\ndecode\n.", "_codecs.decode"),
        (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"ctailkeep.data.unpickle\nrestricted_loads\n.", "tailkeep.data.unpickle.restricted_loads"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_15a_every_way_to_ask_for_a_global(tmp_path, monkeypatch, body, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        restricted_loads(body.replace(b"MARK", b"mark"), "f")
    assert f"f: refused, it asks for {named}; " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


DTYPE, ENCODE = b"cnumpy\ndtype\n", b"c_codecs\nencode\n"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02" + DTYPE + b"}U\x01aK\x01sb.",  # BUILD on a name that stands for a global
        b"\x80\x02" + ENCODE + b"}U\x01aK\x01sb.",
        b"\x80\x02cnumpy\nndarray\n)R.",  # an array called, not only named
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(" + DTYPE + b"K\x00\x85U\x01btR.",
        b"\x80\x02" + ENCODE + b"X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02" + DTYPE + b"U\x01OK\x00K\x01\x87R.",  # an array of objects
        b"\x80\x02" + ARRAY + b"(K\x01K\x02\x85U\x02u1\x89U\x02abtb.",  # a dtype that is only its name
        b"\x80\x02" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"(U\x02u1K\x00K\x01tR\x89U\x02abtb.",
        b"\x80\x02" + ARRAY + b"(K\x01K\x09\x85" + DTYPE + b"(U\x02u1K\x00K\x01tR\x89U\x02abtb.",  # 9 items of 2 bytes
        b"\x80\x02U\x04evilQ.",  # a persistent id
        b"\x82\x01.",  # an extension code
        b"\x80\x05]\x94\x97.",  # an out-of-band buffer
    ],
)
def test_15a_the_few_names_cannot_be_misused(body):
    with pytest.raises(BadInput, match=r"f: cannot be read as a CIFAR file \(.+\); is the download complete"):
        restricted_loads(body, "f")


NESTED = b"K\x01" + b"2\x86" * 60  # a tuple of tuples of ...: 2 ** 60 ones in 122 bytes


@pytest.mark.usefixtures("time_limit")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x80\x02}" + NESTED + b"K\x01s.", "keys are not names or numbers"),
        (b"\x80\x02}(" + NESTED + b"K\x01u.", "keys are not names or numbers"),
        (b"\x80\x02(" + NESTED + b"K\x01d.", "keys are not names or numbers"),
        (b"\x80\x04\x8f(" + NESTED + b"\x90.", "a set or a buffer"),
        (b"\x80\x04(" + NESTED + b"\x91.", "a set or a buffer"),
        (b"\x80\x02" + DTYPE + NESTED + b"K\x00K\x01\x87R.", "an array of a tuple"),
        # Sizes that the file only claims. A smaller one than the first would be had, and filled with zeros.
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "a set or a buffer"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", "."),
        (b"\x80\x02r\xff\xff\xff\xff.", "."),
    ],
    ids=["setitem", "setitems", "dict", "set", "frozenset", "dtype", "bytearray", "bytes", "memo"],
)
def test_15a_small_files_that_unfold_for_ever(body, words):
    with pytest.raises(BadInput, match=words):
        restricted_loads(body, "f")


def test_15a_strings_asked_for_again_and_again(monkeypatch):
    from tailkeep.data import unpickle

    monkeypatch.setattr(unpickle, "_ENCODED_LIMIT", 5000)
    again = b"h\x01h\x02\x85R"  # GET encode, GET text, call
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000
    start = b"\x80\x02}U\x01k]" + ENCODE + b"q\x01" + b"0" + text + b"q\x02" + b"0"
    assert len(restricted_loads(start + b"(" + again * 5 + b"es.", "f")[b"k"]) == 5
    with pytest.raises(BadInput, match="its strings are too large"):
        restricted_loads(start + b"(" + again * 6 + b"es.", "f")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short(share, rng):
    data = pickle.dumps({b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), b"labels": [1, 2, 3, 4]}, protocol=2)
    with pytest.raises(BadInput, match=r"f: cannot be read as a CIFAR file .* is the download complete"):
        restricted_loads(data[: int(share * len(data))], "f")


@pytest.mark.parametrize(
    "data", [b"<!DOCTYPE html><html>", b"\x1f\x8b\x08\x00gzip", b"\x00" * 100, b"version https://git"]
)
def test_a_file_that_is_no_pickle(data):
    with pytest.raises(BadInput, match="f: cannot be read as a CIFAR file"):
        restricted_loads(data, "f")


@pytest.mark.parametrize(
    ("value", "word"), [([1], "list"), ("text", "str"), (np.zeros(3, np.uint8), "Array"), (None, "NoneType")]
)
def test_a_pickle_that_is_no_mapping(value, word):
    with pytest.raises(BadInput, match=f"f: holds a {word}, a CIFAR file holds a mapping"):
        restricted_loads(pickle.dumps(value, protocol=2), "f")


def test_damage_is_always_bad_input(rng):
    whole = pickle.dumps({b"data": np.arange(60, dtype=np.uint8).reshape(2, 30), b"labels": [1, 2]}, protocol=2)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 2):
            data[place] = rng.integers(0, 256)
        try:
            assert isinstance(restricted_loads(bytes(data), "f"), dict)
        except BadInput:
            refused += 1
    assert refused > 100
