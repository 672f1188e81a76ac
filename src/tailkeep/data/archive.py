"""Reads the expected files out of a ``.tar.gz`` archive, streamed, without ever unpacking it to disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from tailkeep.errors import BadInput

MEMBER_LIMIT = 256 << 20
"""Bytes of one file; the largest official one (CIFAR-100 train) has 155 MB."""
TOTAL_LIMIT = 512 << 20
"""Bytes that a whole archive may decompress to; the official ones have about 185 MB."""
COUNT_LIMIT = 64


class _Capped(io.RawIOBase):
    """A stream that refuses to give more than ``limit`` bytes, whatever the archive's headers claim."""

    def __init__(self, source: gzip.GzipFile, limit: int, name: str) -> None:
        self._source, self._left, self._limit, self._name = source, limit, limit, name

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        data = self._source.read(wanted)
        self._left -= len(data)
        if self._left < 0:
            raise BadInput(f"{self._name}: refused, it decompresses to more than {self._limit >> 20} MB")
        return data


def read_archive(path: Path, expected: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (member name, bytes) of every member of the archive whose name is in ``expected``.

    Raises ``BadInput`` where the archive is damaged, too large, holds a link, a device, a name that leads outside, or
    an expected name twice. Other regular files are passed over.
    """
    seen: set[str] = set()
    count = 0
    try:
        with (
            gzip.open(path, "rb") as source,
            tarfile.open(
                fileobj=_Capped(source, TOTAL_LIMIT, path.name),
                mode="r|",
            ) as archive,
        ):
            for member in archive:
                count += 1
                _check_member(path, member, count)
                if not member.isreg() or member.name not in expected:
                    continue
                if member.name in seen:
                    raise BadInput(f"{path}: refused, it holds {member.name!r} twice")
                seen.add(member.name)
                content = archive.extractfile(member)
                data = content.read(MEMBER_LIMIT) if content is not None else b""
                if len(data) != member.size:
                    raise BadInput(f"{path}: {member.name!r} is cut short; is the download complete?")
                yield member.name, data
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}: not a readable .tar.gz archive ({error}); is the download complete?") from error


def _check_member(path: Path, member: tarfile.TarInfo, count: int) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise BadInput(f"{path}: refused, its member {member.name!r} leads outside the archive")
    if not (member.isreg() or member.isdir()):
        raise BadInput(f"{path}: refused, its member {member.name!r} is a link or a device, not a plain file")
    if member.size > MEMBER_LIMIT or count > COUNT_LIMIT:
        raise BadInput(f"{path}: refused, its member {member.name!r} is too large or one of too many")
