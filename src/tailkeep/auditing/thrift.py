"""Reads Thrift's compact protocol, in which a Parquet file describes itself, without trusting its numbers.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

LIST_LIMIT = 400_000
"""Entries of one list."""
VALUE_LIMIT = 2_000_000
"""Values of a struct with all that lies in it; each takes about a microsecond and up to 100 bytes."""
DEPTH_LIMIT = 16


class CompactReader:
    """Reads structs into dicts of field number to value: bool, int, bytes, list or dict.

    Raises ValueError where the bytes end too soon, a field stands twice, a list or a nesting is endless.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._values = 0
        self.position = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Read the struct that begins here."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if number in fields:
                raise ValueError(f"field {number} stands twice")
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        self._values += 1
        if depth > DEPTH_LIMIT or self._values > VALUE_LIMIT:
            raise ValueError("it is nested too deep or too large")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return self._take(8)
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"a value is of the unknown kind {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 != 15 else self._varint()
        if size > LIST_LIMIT:
            raise ValueError(f"a list has {size} entries")
        kind = 3 if head & 15 in (1, 2) else head & 15  # a truth value in a list has a byte of its own
        return [self._value(kind, depth + 1) for _ in range(size)]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        piece = self._data[self.position : self.position + size]
        if len(piece) != size:
            raise ValueError("it is cut short")
        self.position += size
        return piece

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number has no end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
