"""What a Parquet file says of itself, read and compared before pyarrow sees it.

Two reasons. A page says how many values it holds and how large it is unpacked, and the file's footer repeats that, but
may lie: a few bytes can stand for two thousand million values. And pyarrow ends the whole process (``std::terminate``)
when its metadata objects meet some damaged footers, which no ``except`` can catch. The structs are those of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift; the numbers below are their fields.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tailkeep.auditing.thrift import CompactReader
from tailkeep.errors import BadInput

PAGE_LIMIT = 200_000
"""Pages of the columns read; a page has 20,000 rows or a megabyte as a rule."""
HEADER_LIMIT = 1 << 16
"""Bytes of a page header; it may hold the smallest and largest text of the page."""
FOOTER_LIMIT = 64 << 20
_DELTA_BYTE_ARRAY = 7
_REPEATED = 2
_BODIES = {0: (5, 2), 2: (7, 2), 3: (8, 4)}
"""Kind of a page (data, dictionary, data of version 2): the field of its own header, the encoding's field in that."""
T = TypeVar("T")


@dataclass(frozen=True)
class Leaf:
    """One column of numbers or texts; a column of lists has one with a longer path."""

    path: tuple[bytes, ...]
    kind: int
    flat: bool

    @property
    def name(self) -> str:
        """The path in one word, for messages."""
        return b".".join(self.path).decode()


@dataclass
class Totals:
    """What the pages of the columns sum to: pages, bytes unpacked, values with the entries of dictionaries."""

    pages: int = 0
    unpacked: int = 0
    entries: int = 0


def read_footer(path: Path) -> dict[int, Any]:
    """Return the file's footer (``FileMetaData``). Raises ValueError where it is none."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or not 0 < length <= min(size - 12, FOOTER_LIMIT):
            raise ValueError("it does not end as a Parquet file does; is the download complete?")
        file.seek(size - 8 - length)
        return CompactReader(file.read(length)).struct()


def count_pages(path: Path, footer: dict[int, Any], columns: Collection[str]) -> Totals:
    """Walk the pages of some columns. Raises ValueError where they are not what the footer says.

    Raises BadInput where a column lies in another file, or is packed so that its size is unknown before it is unpacked.
    """
    leaves = _leaves(_get(footer, 2, list))
    wanted = {name.encode() for name in columns}
    totals = Totals()
    rows = 0
    with open(path, "rb") as file:
        for group in _get(footer, 4, list):
            chunks, group_rows = _get(group, 1, list), _get(group, 3, int)
            rows += group_rows
            if len(chunks) != len(leaves) or group_rows < 0:
                raise ValueError(f"a group of rows has {len(chunks)} columns of {len(leaves)}")
            for chunk, leaf in zip(chunks, leaves, strict=True):
                meta = _get(chunk, 3, dict)
                # Checked in columns that nobody wants too: a damaged name could hide one.
                if tuple(_get(meta, 3, list)) != leaf.path or _get(meta, 1, int) != leaf.kind:
                    raise ValueError(f"column {leaf.name!r} is described in two ways")
                if leaf.path[0] in wanted:
                    if 1 in chunk:
                        raise BadInput(
                            f"{path}: refused, its column {leaf.name!r} lies in another file; write one file"
                        )
                    _count_chunk(path, file, meta, leaf, group_rows, totals)
    if rows != _get(footer, 3, int):
        raise ValueError(f"its groups have {rows} rows, not {footer[3]}")
    return totals


def _leaves(schema: list[Any]) -> list[Leaf]:
    """Return the columns of a schema, which is a tree written down depth first."""
    leaves: list[Leaf] = []
    open_nodes: list[tuple[tuple[bytes, ...], int, bool]] = []  # path, children still to come, flat
    for number, element in enumerate(schema):
        name, children = _get(element, 4, bytes), element.get(5, 0)
        if not isinstance(children, int) or children < 0 or (number > 0) != bool(open_nodes):
            raise ValueError("its schema is no tree")
        parent, left, flat = open_nodes.pop() if open_nodes else ((), 1, True)
        path = (*parent, name) if number else ()
        if left > 1:
            open_nodes.append((parent, left - 1, flat))
        flat = flat and len(path) <= 1 and element.get(3) != _REPEATED
        if children:
            open_nodes.append((path, children, flat))
        elif number:
            leaves.append(Leaf(path, _get(element, 1, int), flat))
    if open_nodes:
        raise ValueError("its schema is cut short")
    return leaves


def _count_chunk(path: Path, file: BinaryIO, meta: dict[int, Any], leaf: Leaf, rows: int, totals: Totals) -> None:
    """Add the pages of one column in one group of rows."""
    name, start = leaf.name, _get(meta, 9, int)
    if 11 in meta and 0 < _get(meta, 11, int) < start:
        start = meta[11]
    if rows == 0 and _get(meta, 5, int) == 0:
        return  # what a writer leaves of an empty table; its offsets mean nothing
    position, end, values = start, start + _get(meta, 7, int), 0
    while position < end:
        file.seek(position)
        header = CompactReader(file.read(min(HEADER_LIMIT, end - position)))
        page = header.struct()
        kind = _get(page, 1, int)
        if kind not in _BODIES:
            raise ValueError(f"column {name!r} has a page of the unknown kind {kind}")
        body, encoding = _get(page, _BODIES[kind][0], dict), _BODIES[kind][1]
        amount, packed, unpacked = _get(body, 1, int), _get(page, 3, int), _get(page, 2, int)
        if min(amount, packed, unpacked) < 0:
            raise ValueError(f"a page of column {name!r} has a negative size")
        if _get(body, encoding, int) == _DELTA_BYTE_ARRAY:
            raise BadInput(
                f"{path}: column {name!r} has texts packed by their common beginnings (DELTA_BYTE_ARRAY), "
                "whose size is not known before they are unpacked; write it with another encoding"
            )
        values += amount if kind != 2 else 0
        totals.pages += 1
        totals.unpacked += unpacked
        totals.entries += amount
        position += header.position + packed
        if totals.pages > PAGE_LIMIT:
            raise ValueError(f"it has more than {PAGE_LIMIT} pages")
    if position != end or values != _get(meta, 5, int) or (leaf.flat and values != rows):
        raise ValueError(f"the pages of column {name!r} hold {values} values, not what the file's footer says")


def _get(fields: Any, number: int, kind: type[T]) -> T:
    """Return a field that must be there. Raises ValueError where it is not, or is of another kind."""
    value = fields.get(number) if isinstance(fields, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"its description of itself is damaged (field {number})")
    return value
