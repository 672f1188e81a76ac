"""Bad input 14: archives that lead outside, hold links or devices, or unfold for ever."""

import gzip
import io
import tarfile

import pytest

from tailkeep.data import archive
from tailkeep.data.archive import read_archive
from tailkeep.errors import BAD_INPUT, BadInput


def member(name, data=b"", kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    return info, data


def write(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tar.gz"


GOOD = member("d/good", b"content")


def test_the_expected_files_come_in_order_and_the_others_do_not(path):
    folder = member("d", kind=tarfile.DIRTYPE)
    write(path, folder, member("d/b", b"2"), member("d/readme.html", b"x" * 9), member("d/a", b"1" * 70000), GOOD)
    assert list(read_archive(path, {"d/a", "d/b"})) == [("d/b", b"2"), ("d/a", b"1" * 70000)]


@pytest.mark.parametrize(
    ("evil", "words"),
    [
        (member("../evil", b"x"), "leads outside"),
        (member("d/../../evil", b"x"), "leads outside"),
        (member("/etc/evil", b"x"), "leads outside"),
        (member("d\\..\\..\\evil", b"x"), "leads outside"),
        (member("d/evil", kind=tarfile.SYMTYPE, target="/etc/passwd"), "a link or a device"),
        (member("d/evil", kind=tarfile.LNKTYPE, target="d/good"), "a link or a device"),
        (member("d/evil", kind=tarfile.CHRTYPE), "a link or a device"),
        (member("d/evil", kind=tarfile.BLKTYPE), "a link or a device"),
        (member("d/evil", kind=tarfile.FIFOTYPE), "a link or a device"),
    ],
    ids=["..", "inner ..", "absolute", "backslash", "symlink", "hard link", "character", "block", "pipe"],
)
@pytest.mark.parametrize("expected", [True, False])
def test_14_members_that_are_no_plain_files_within(path, evil, words, expected):
    write(path, GOOD, evil)
    with pytest.raises(BadInput, match=words) as caught:
        list(read_archive(path, {"d/good", evil[0].name} if expected else {"d/good"}))
    assert repr(evil[0].name) in str(caught.value)
    assert caught.value.exit_code == BAD_INPUT
    assert list(path.parent.iterdir()) == [path]  # nothing was unpacked


@pytest.mark.parametrize("name", ["d/good", "d/other"])
def test_14_a_bomb(path, monkeypatch, name):
    # 4 MB of zeros in 4 kB, against a limit lowered from 512 MB.
    monkeypatch.setattr(archive, "TOTAL_LIMIT", 2 << 20)
    write(path, member(name, bytes(4 << 20)))
    assert path.stat().st_size < 10_000
    with pytest.raises(BadInput, match="decompresses to more than 2 MB"):
        list(read_archive(path, {"d/good"}))


def test_14_zeros_without_end(path, monkeypatch):
    # After the archive's end nothing is read, and before it no more than the limit.
    monkeypatch.setattr(archive, "TOTAL_LIMIT", 1 << 20)
    info, _ = member("d/good")
    info.size = 100 << 20
    path.write_bytes(gzip.compress(info.tobuf() + bytes(8 << 20)))
    with pytest.raises(BadInput, match="decompresses to more than 1 MB"):
        list(read_archive(path, {"d/good"}))


def test_14_a_member_that_claims_a_terabyte(path):
    info, _ = member("d/good")
    info.size = 1 << 40
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    with pytest.raises(BadInput, match="'d/good' is too large or one of too many"):
        list(read_archive(path, {"d/good"}))


def test_14_too_many_members(path):
    write(path, *(member(f"d/{n}") for n in range(archive.COUNT_LIMIT + 1)))
    with pytest.raises(BadInput, match="one of too many"):
        list(read_archive(path, {"d/good"}))
    write(path, GOOD, *(member(f"d/{n}") for n in range(archive.COUNT_LIMIT - 1)))
    assert list(read_archive(path, {"d/good"})) == [("d/good", b"content")]


def test_a_name_that_stands_twice(path):
    write(path, GOOD, member("d/good", b"another"))
    with pytest.raises(BadInput, match="holds 'd/good' twice"):
        list(read_archive(path, {"d/good"}))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.99])
def test_an_archive_cut_short(path, rng, share):
    write(path, member("d/good", rng.bytes(50_000)), member("d/last", rng.bytes(50_000)))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadInput, match="is the download complete") as caught:
        list(read_archive(path, {"d/good", "d/last"}))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>not found</html>", b"\x1f\x8b", gzip.compress(b"no tar at all" * 100)],
    ids=["empty", "a web page", "half a header", "no tar inside"],  # gzip writes the time: not a name for a test
)
def test_a_file_that_is_no_archive(path, data):
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"not a readable \.tar\.gz archive"):
        list(read_archive(path, {"d/good"}))


def test_damage_is_always_bad_input(path, rng):
    # Few different bytes, so that they are packed and damage spreads.
    text = bytes(rng.integers(0, 4, 6000, dtype="u1"))
    write(path, member("d/good", text), member("d/other", text[::-1]))
    whole = path.read_bytes()
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            assert {name for name, _ in read_archive(path, {"d/good"})} <= {"d/good"}
        except BadInput:
            refused += 1
    assert refused > 100
