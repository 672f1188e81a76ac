"""Files made to hurt: they promise more than they hold, or hold more than they promise."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.auditing import cells
from tailkeep.auditing.parquet_pages import count_pages, read_footer
from tailkeep.auditing.tables import read_predictions
from tailkeep.auditing.thrift import DEPTH_LIMIT, CompactReader
from tailkeep.errors import BadInput

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small file unfold to a megabyte only, so that a small bomb is one."""
    monkeypatch.setattr(cells, "SMALL", 1 << 20)


def refused(path: Path, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}: ")


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.usefixtures("small")
def test_an_npz_that_unfolds(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, labels=np.zeros(3_000_000, np.uint8), predictions=np.zeros(3_000_000, np.uint8))
    assert path.stat().st_size < 10_000
    refused(
        path, r"refused, its arrays would take 5 MB of memory \(limit for a file of this size: 1 MB\); keep the col"
    )
    np.savez_compressed(path, labels=np.zeros(300_000, np.uint8), predictions=np.zeros(300_000, np.uint8))
    refused(path, "refused, its arrays as numbers and texts would take 4 MB")


def test_an_npz_whose_headers_lie(tmp_path: Path) -> None:
    path, good = tmp_path / "a.npz", npy([0, 1])
    for shape in (b"(1000000000000,)", b"(2, 2)", b"(1,)"):
        lying = re.sub(rb"\(2,\), }\s*", lambda _, shape=shape: shape + b", }", good)
        lying = lying[:8] + (len(lying) - 16 - 10).to_bytes(2, "little") + lying[10:]
        pack(path, {"labels.npy": lying, "predictions.npy": good})
        refused(path, "'labels.npy' of shape .* and type int64 should have .* bytes and has .*; the file is damaged")
    for kind in ("|O", "<i8,<i8", "<V8", "<M8", "__import__"):
        pack(path, {"labels.npy": good.replace(b"'<i8'", f"'{kind}'".encode()), "predictions.npy": good})
        refused(path, "pickled and could run any code" if kind == "|O" else "is no plain array of numbers or texts")


def test_an_npz_whose_directory_lies(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.npz", {"labels.npy": npy([0, 1]), "predictions.npy": npy([0, 1])}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (1 << 31).to_bytes(4, "little")  # the size that the first array unfolds to
    path.write_bytes(data)
    refused(path, "refused, its arrays would take 2048 MB of memory")
    data[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "should have 144 bytes and has 1000; the file is damaged")
    data = bytearray(pack(path, {"labels.npy": npy([0, 1]), "predictions.npy": npy([0, 1])}).read_bytes())
    data[40] ^= 255
    path.write_bytes(data)
    refused(path, "not readable as an .npz of plain arrays")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_numpy_does_not_write(tmp_path: Path) -> None:
    path, good = tmp_path / "a.npz", npy([0, 1])
    refused(pack(path, {"labels.npy": good, "predictions.npy": good}, zipfile.ZIP_BZIP2), "packed in a way that numpy")
    refused(pack(path, {"[Content_Types].xml": b""}), "is an office document, not predictions; save the sheet as CSV")
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("labels.npy", "predictions.npy", "labels.npy"):
            archive.writestr(name, good)
    refused(path, "refused, it holds 'labels.npy' twice")
    data = bytearray(pack(path, {"labels.npy": good, "predictions.npy": good}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, "'labels.npy' is encrypted; write it without a password")


def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, labels=np.array([0x110000, 65], np.uint32).view("<U1"), predictions=[0, 1])
    refused(path, "labels holds what is no text; the file is damaged")
    np.savez(path, labels=np.array([0xD800, 65], np.uint32).view("<U1"), predictions=["A", "A"])
    refused(path, r"'\\ud800' holds a lone surrogate")


@pytest.mark.usefixtures("small")
def test_long_ids_in_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = "".join(f"{row},0,1\n" for row in range(2000))
    path.write_text(f"id,label,prediction\n{'x' * 1000},0,1\n{rows}", encoding="utf-8")
    refused(path, "refused, column 'id' with texts of 1000 characters would take 7 MB")


def write(path: Path, table: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(table), path, **{"compression": "none", "write_page_checksum": True, **options})
    return path


@pytest.mark.usefixtures("small")
def test_a_parquet_file_that_unfolds(tmp_path: Path) -> None:
    constant = np.zeros(1_000_000, np.int64)
    path = write(tmp_path / "a.parquet", {"label": constant, "prediction": constant})
    assert path.stat().st_size < 10_000
    refused(path, "refused, 1000000 rows of its columns would take 30 MB of memory")
    lists = pa.array([[0.0] * 500_000] * 2)
    refused(write(tmp_path / "b.parquet", {"label": [0, 1], "logits": lists}), "refused, 2 rows of its columns would")


def test_texts_packed_by_common_beginnings(tmp_path: Path) -> None:
    encoding = {"use_dictionary": False, "column_encoding": {"label": "DELTA_BYTE_ARRAY"}}
    path = write(tmp_path / "a.parquet", {"label": ["a" * 50] * 9, "prediction": [0] * 9}, **encoding)
    refused(path, r"column 'label' has texts packed by their common beginnings \(DELTA_BYTE_ARRAY\)")


def test_pages_that_disagree_with_the_footer(tmp_path: Path) -> None:
    rows = 24
    path = write(
        tmp_path / "a.parquet", {"label": list(range(rows)), "prediction": list(range(rows))}, use_dictionary=False
    )
    totals = count_pages(path, read_footer(path), ["label", "prediction"])
    assert (totals.pages, totals.entries) == (2, 2 * rows)
    whole = path.read_bytes()
    header = CompactReader(whole[4:])
    assert header.struct()[5][1] == rows
    data = bytearray(whole)
    data[data.index(bytes([0x15, 2 * rows]), 4, 4 + header.position) + 1] += 2  # a zigzag number: one value more
    path.write_bytes(data)
    refused(path, "the pages of column 'label' hold 25 values, not what the file's footer says")
    data = bytearray(whole)
    data[4 + header.position + 20] ^= 1
    path.write_bytes(data)
    refused(path, "not readable as Parquet .*CRC checksum")


def test_a_footer_that_ends_pyarrow_is_refused_before(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"label": [0, 1], "prediction": [0, 1]})
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - length], data[-8 - length : -8]
    # An empty histogram of repetition levels becomes one of two entries; pyarrow's metadata objects abort on it.
    broken = re.sub(rb"\x29\x06\x19\x26", b"\x29\x26\x00\x00\x19\x26", footer, count=1)
    assert broken != footer
    path.write_bytes(body + broken + len(broken).to_bytes(4, "little") + b"PAR1")
    refused(path, "not readable as Parquet")


def test_endless_structs() -> None:
    for data, words in (
        (b"\x1c" * (DEPTH_LIMIT + 5), "nested too deep"),
        (b"\x19" * 40, "nested too deep|unknown kind"),
        (b"\x19\xfc\xff\xff\xff\x7f", "a list has"),
        (b"\x15" + b"\xff" * 20, "no end"),
        (b"\x18\xff\xff\x03abc", "cut short"),
        (b"\x15\x02\x05\x02\x02\x00", "stands twice"),
        (b"\x1f", "unknown kind"),
        (b"", "cut short"),
    ):
        with pytest.raises(ValueError, match=words):
            CompactReader(data).struct()
