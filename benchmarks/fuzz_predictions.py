"""Damaged prediction files: each is read as a valid table or refused; nothing else, soon, and in little memory.

    python benchmarks/fuzz_predictions.py [--files 95000] [--seed 0] [--forms csv npz parquet] [--only N]

Small valid files of every form (CSV, ``.npz``, Parquet) are damaged: bytes flipped, cut off, inserted, removed, chunks
swapped or doubled, numbers in headers and footers replaced; also the arrays inside an ``.npz`` with the checksums
made right again. Each is read in this process by ``read_predictions``. File N of a seed is always the same.

A file that is still accepted is read a second time by other code (Python's csv, ``numpy.load``, ``pyarrow``), and both
must agree in every label and prediction; a Parquet file, whose pages have checksums, must besides give what it gave
before the damage. Printed: counts by outcome, the slowest read, and the growth of memory. Exit 1 where an exception
other than BadInput came out, an accepted file was read wrongly, a read took over 10 s, or memory grew by over 1 GB.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import io
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tailkeep.auditing.predictions import Predictions
from tailkeep.auditing.tables import read_predictions
from tailkeep.errors import BadInput

FORMS = ("csv", "npz", "parquet")
SHARES = (0.45, 0.35, 0.2)
SECONDS = 10.0
MEMORY = 1 << 30
ROWS = 24
NAMES = ("cat", "dog", "fox, red", 'owl "small"')


@dataclass
class Summary:
    """What came of the files: counts by (form, outcome), failures in words, the slowest read in CPU seconds."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "none")
    seconds: float = 0.0
    grown: int = 0


def seeds() -> dict[str, list[tuple[bytes, dict[str, Any]]]]:
    """Return small valid files by form, each with the options to read it."""
    rng = np.random.default_rng(7)
    labels, predicted = rng.integers(0, 4, ROWS), rng.integers(0, 4, ROWS)
    logits = rng.normal(size=(ROWS, 4)).round(3)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    many = (rng.random((ROWS, 3)) < 0.4).astype(int)
    ids = np.array([f"img/{index:03d}.png" for index in range(ROWS)])
    site = np.array(["north", "south"])[labels % 2]
    named = [np.array(NAMES)[labels].tolist(), np.array(NAMES)[predicted].tolist()]
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"label": labels.tolist(), "prediction": predicted.tolist()}, {}),
        (
            {"id": ids.tolist(), "label": named[0], "prediction": named[1], "site": site.tolist()},
            {"group_columns": ["site"]},
        ),
        ({"label": named[0], **{f"logit_{name}": logits[:, i].tolist() for i, name in enumerate(NAMES)}}, {}),
        (
            {
                "label": labels.tolist(),
                "prediction": chances.argmax(axis=1).tolist(),
                **{f"prob_{name}": chances[:, i].tolist() for i, name in enumerate(NAMES)},
            },
            {},
        ),
        (
            {f"label_{c}": many[:, i].tolist() for i, c in enumerate("abc")}
            | {f"prob_{c}": chances[:, i].tolist() for i, c in enumerate("abc")},
            {},
        ),
    ]
    arrays: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"labels": labels, "predictions": predicted}, {}),
        ({"labels": labels.astype(np.int32), "logits": logits.astype(np.float32), "ids": ids}, {}),
        ({"labels": named[0], "probabilities": chances, "class_names": np.array(NAMES), "group_site": site}, {}),
        ({"labels": many.astype(np.uint8), "probabilities": chances[:, :3]}, {}),
    ]
    arrays[2][1]["group_columns"] = ["site"]
    files: dict[str, list[tuple[bytes, dict[str, Any]]]] = {"csv": [], "npz": [], "parquet": []}
    for number, (table, options) in enumerate(tables):
        files["csv"].append((_csv(table, number), options))
        files["parquet"].append((_parquet(table, number), options))
    files["parquet"].append((_parquet({"label": labels.tolist(), "logits": logits.tolist()}, 0), {}))
    for number, (content, options) in enumerate(arrays):
        buffer = io.BytesIO()
        (np.savez_compressed if number % 2 else np.savez)(buffer, **content)
        files["npz"].append((buffer.getvalue(), options))
    return files


def _csv(table: dict[str, list[Any]], number: int) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n" if number % 2 else "\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return (b"\xef\xbb\xbf" if number == 3 else b"") + text.getvalue().encode()


def _parquet(table: dict[str, list[Any]], number: int) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(
        pa.table(table),
        buffer,
        compression=("snappy", "zstd", "none", "gzip", "snappy")[number],
        data_page_version="2.0" if number % 2 else "1.0",
        write_page_checksum=True,
        row_group_size=ROWS // 2,
    )
    return buffer.getvalue()


def damage(data: bytes, form: str, rng: random.Random) -> bytes:
    """Return a damaged copy of a file."""
    if form == "npz" and rng.random() < 0.4:
        return _damage_inside(data, rng)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if out:
            rng.choice(_WAYS)(out, rng, form)
    return bytes(out)


def _damage_inside(data: bytes, rng: random.Random) -> bytes:
    """Damage one array of an ``.npz`` and pack it again, so that the checksum does not give it away."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        victim = rng.randrange(len(source.infolist()))
        for number, entry in enumerate(source.infolist()):
            content = bytearray(source.read(entry))
            if number == victim:
                rng.choice(_WAYS)(content, rng, "npz")
            target.writestr(entry.filename, bytes(content))
    return buffer.getvalue()


def _place(out: bytearray, rng: random.Random, form: str) -> int:
    """Choose a byte: anywhere, or in the header or the summary, where most of the meaning is."""
    spot = rng.random()
    if spot < 0.3:
        return rng.randrange(min(len(out), 128))
    if spot < (0.3 if form == "csv" else 0.6):
        return len(out) - 1 - rng.randrange(min(len(out), 1200))
    return rng.randrange(len(out))


def _flip(out: bytearray, rng: random.Random, form: str) -> None:
    out[_place(out, rng, form)] ^= 1 << rng.randrange(8)


def _set(out: bytearray, rng: random.Random, form: str) -> None:
    out[_place(out, rng, form)] = rng.choice((0, 1, 9, 10, 13, 34, 44, 48, 57, 127, 128, 255, rng.randrange(256)))


def _cut(out: bytearray, rng: random.Random, form: str) -> None:
    del out[_place(out, rng, form) :]


def _insert(out: bytearray, rng: random.Random, form: str) -> None:
    text = rng.choice(
        (b",", b"\n", b'"', b"\r", b"\0", b"nan", b"-1", b"1e999", b"9" * 30, b"\xff\xfe", b" ", b";", b"")
    )
    place = _place(out, rng, form)
    out[place:place] = text or rng.randbytes(rng.randrange(1, 40))


def _remove(out: bytearray, rng: random.Random, form: str) -> None:
    place = _place(out, rng, form)
    del out[place : place + rng.choice((1, 2, 4, 16, 100))]


def _swap(out: bytearray, rng: random.Random, form: str) -> None:
    size = rng.choice((1, 4, 16, 64))
    one, other = _place(out, rng, form), _place(out, rng, form)
    out[one : one + size], out[other : other + size] = out[other : other + size], out[one : one + size]


def _double(out: bytearray, rng: random.Random, form: str) -> None:
    size = rng.choice((4, 16, 64, 256))
    start, place = _place(out, rng, form), _place(out, rng, form)
    out[place:place] = out[start : start + size]


def _number(out: bytearray, rng: random.Random, form: str) -> None:
    place = _place(out, rng, form)
    value = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x10000, rng.randrange(1 << 32)))
    out[place : place + 4] = rng.choice((struct.pack("<I", value), _varint(value), str(value).encode()))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


_WAYS: Sequence[Callable[[bytearray, random.Random, str], None]] = (
    _flip, _flip, _set, _set, _cut, _insert, _insert, _remove, _swap, _double, _number,
)  # fmt: skip


def disagreement(data: bytes, form: str, found: Predictions) -> str | None:
    """Read an accepted file by other code; return where the two differ, or None."""
    try:
        other = {"csv": _other_csv, "npz": _other_npz, "parquet": _other_parquet}[form](data)
    except Exception as error:
        return f"accepted, but {type(error).__name__} elsewhere: {error}"
    names = np.array(found.class_names)
    if found.task == "multilabel":
        ours = {f"label_{name}": found.labels[:, i] for i, name in enumerate(names)}
        wrong = [key for key, values in ours.items() if key in other and [*map(float, other[key])] != values.tolist()]
        if "labels" in other and np.asarray(other["labels"]).tolist() != found.labels.tolist():
            wrong.append("labels")
        return f"another {wrong[0]}" if wrong else None
    pairs = [("label", found.labels)]
    if "prediction" in other or "predictions" in other:
        pairs.append(("prediction", found.predicted))
    for column, indices in pairs:
        theirs = [_name(value, found.class_names) for value in other.get(column, other.get(f"{column}s"))]
        if theirs != names[indices].tolist():
            return f"another {column}"
    kind = {"logits": "logit_", "probabilities": "prob_"}.get(str(found.scores_are), "")
    scores = [other[f"{kind}{name}"] for name in names if f"{kind}{name}" in other]
    if scores and np.array(scores, dtype=float).T.tolist() != np.asarray(found.scores, dtype=float).tolist():
        return "other scores"
    return None


def _name(value: Any, names: tuple[str, ...]) -> str:
    """Return the class that a cell means, by the same words as the documentation and other code."""
    text = str(value).strip()
    if text not in names:
        try:
            number = float(text)
        except ValueError:
            return text
        text = str(int(number)) if number == int(number) else text
    return text if text in names or not text.isdigit() or int(text) >= len(names) else names[int(text)]


def _other_csv(data: bytes) -> dict[str, list[Any]]:
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    header, *rows = [row for row in reader if row]
    columns = dict(zip((name.strip() for name in header), zip(*rows, strict=True), strict=True))
    return {name: list(values) for name, values in columns.items()}


def _other_npz(data: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        bad = archive.testzip()
        if bad:
            raise ValueError(f"the checksum of {bad} is wrong")
    with warnings.catch_warnings(), np.load(io.BytesIO(data), allow_pickle=False) as file:
        warnings.simplefilter("ignore")  # headers as Python 2 wrote them
        return {name: file[name] for name in file.files if name != "class_names"}


def _other_parquet(data: bytes) -> dict[str, Any]:
    import pyarrow.parquet as pq

    # Not read_table: its data set reader fails on damaged statistics of a column whose data are whole.
    table = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read()
    return {name: table.column(name).to_pylist() for name in table.column_names}


def same(one: Predictions, other: Predictions) -> bool:
    """Whether two predictions say the same."""
    return (
        one.class_names == other.class_names
        and one.labels.tolist() == other.labels.tolist()
        and one.predicted.tolist() == other.predicted.tolist()
    )


def fuzz(files: int, seed: int, forms: Sequence[str] = FORMS, folder: Path | None = None, only: int = -1) -> Summary:
    """Read ``files`` damaged files and count what comes out. ``only`` reads that one file of the row and no other."""
    summary, valid = Summary(), seeds()
    shares = [SHARES[FORMS.index(form)] for form in forms]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for number in range(files) if only < 0 else [only]:
            rng = random.Random(f"{seed}/{number}")
            form = rng.choices(forms, shares)[0]
            whole, options = rng.choice(valid[form])
            data = damage(whole, form, rng)
            path = Path(place) / f"damaged.{rng.choice((form, form, form, 'txt'))}"
            path.write_bytes(data)
            if only >= 0:
                Path(f"fuzz-{seed}-{number}.{form}").write_bytes(data)
            found = _read(summary, path, f"file {number} ({form})", form, options)
            difference = None if found is None else disagreement(data, str(found.source["form"]), found)
            if found is not None and form == found.source["form"] == "parquet" and difference is None:
                path.write_bytes(whole)
                if not same(found, read_predictions(path, **options)):
                    difference = "accepted, with another answer than before the damage"
            if difference is not None:
                summary.counts[form, "accepted"] -= 1
                summary.counts[form, "wrong"] += 1
                summary.failures.append(f"file {number} ({form}): {difference}")
    summary.seconds = time.process_time() - started
    summary.grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return summary


def _read(summary: Summary, path: Path, title: str, form: str, options: dict[str, Any]) -> Predictions | None:
    """Read one damaged file and count what comes of it."""
    found, outcome, start = None, "refused", time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found, outcome = read_predictions(path, **options), "accepted"
        except BadInput as error:
            if str(path) not in str(error):
                summary.failures.append(f"{title}: the refusal does not name the file: {error}")
        except Exception as error:
            outcome = "crashed"
            summary.failures.append(f"{title}: {type(error).__name__}: {error}")
    spent = time.process_time() - start
    summary.slowest = max(summary.slowest, (spent, title))
    if spent > SECONDS:
        summary.failures.append(f"{title}: took {spent:.1f} s")
    if caught:
        summary.failures.append(f"{title}: warned: {caught[0].message}")
    summary.counts[form, outcome] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=95_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--only", type=int, default=-1, help="one file of the row, kept in this folder")
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.dump_traceback_later(3600, exit=True)
    summary = fuzz(options.files, options.seed, options.forms, only=options.only)
    for form in options.forms:
        row = {outcome: count for (which, outcome), count in sorted(summary.counts.items()) if which == form}
        print(f"{form:8}", "  ".join(f"{outcome} {count}" for outcome, count in row.items()))
    print(f"{sum(summary.counts.values())} files in {summary.seconds:.1f} s of CPU")
    print(f"slowest {summary.slowest[0]:.3f} s, {summary.slowest[1]}; memory grew by {summary.grown >> 20} MB")
    if summary.grown > MEMORY:
        summary.failures.append(f"memory grew by {summary.grown >> 20} MB")
    print("\n".join(summary.failures[:50]))
    print(f"{len(summary.failures)} failures")
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
