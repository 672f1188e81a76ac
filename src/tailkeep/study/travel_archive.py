"""A results file: one zip of JSON and ``.npy`` members, written to equal bytes and read with suspicion.

Equal members give equal bytes: sorted names, fixed dates, one compression level. Three things are hashed: every member
(in ``manifest.json``), the manifest (its hash is the content hash, which does not depend on the compression), and the
whole file (the seal: 64 hex digits in the zip's comment), so that no bit of it can change unseen.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.errors import BadInput
from tailkeep.spec import canonical_json, content_key

FORMAT = "tailkeep results"
VERSION = 1
MANIFEST = "manifest.json"
NAMES = re.compile(
    r"(manifest|study|steps|cells|predictions|frame)\.json"
    r"|(labels|predictions)-[0-9a-f]{16}\.npy"
    r"|ids-[0-9a-f]{16}\.json"
)
FILE_LIMIT = 256 << 20
"""Bytes of the zip file."""
ARRAY_LIMIT = 256 << 20
"""Bytes of an array, unpacked."""
JSON_LIMIT = 64 << 20
"""Bytes of any other member: values take many times the room of their text."""
TOTAL_LIMIT = 512 << 20
"""Bytes of all members, unpacked."""
COUNT_LIMIT = 128
PIECES = "; large results are exported in pieces: --set 'seeds=[0]' and so on"
DIRECTORY_LIMIT = 1 << 20
DATE = (1980, 1, 1, 0, 0, 0)
SEAL = 64
ENDING = 22  # bytes of the zip's last record, before its comment


def json_bytes(value: Any) -> bytes:
    """Return the one text of a plain value, as members hold it."""
    return (canonical_json(value) + "\n").encode("ascii")


def parse_json(name: str, data: bytes) -> Any:
    """Return a member's value; raises ``BadInput`` where its text is not the one text of its value."""
    try:
        value = json.loads(data)
        same = json_bytes(value) == data
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadInput(f"{name} is not readable as JSON ({error})") from error
    if not same:
        raise BadInput(f"{name} is not written as tailkeep writes it (keys sorted and once each, no spaces)")
    return value


def array_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def parse_array(name: str, data: bytes) -> NDArray[Any]:
    """Return the array of an ``.npy`` member: class indices, so uint8 or uint16. Its size is checked first.

    Raises ``BadInput`` where it is anything else.
    """
    buffer = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(buffer) != (1, 0):
            raise ValueError("an unknown version of .npy")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
        content = data[buffer.tell() :]
        if fortran or dtype.str not in ("|u1", "<u2") or any(size < 0 for size in shape):
            raise ValueError(f"class indices as uint8 or uint16 are expected, not {dtype} {shape}")
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size != len(content):
            raise ValueError(f"{len(content)} bytes do not make an array {shape} of {dtype}")
        return np.frombuffer(content, dtype).reshape(shape)
    except (ValueError, TypeError, SyntaxError, EOFError, struct.error, RecursionError) as error:
        raise BadInput(f"{name} is not a plain .npy array: {error}") from error


def pack(members: dict[str, bytes]) -> tuple[bytes, str]:
    """Return the bytes of a results file of these members, and its content hash.

    Raises ``BadInput`` where the members are larger than a reader would take.
    """
    for name, data in members.items():
        _check_size(name, len(data))
    total = sum(map(len, members.values()))
    if total > TOTAL_LIMIT or len(members) >= COUNT_LIMIT:
        raise BadInput(f"too large for one file: {len(members)} members, {total >> 20} MB{PIECES}")
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in members.items()}
    body = {"format": FORMAT, "version": VERSION, "files": files}
    key = content_key(body)
    everything = {**members, MANIFEST: json_bytes({**body, "self": key})}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = b"0" * SEAL
        for name in sorted(everything):
            info = zipfile.ZipInfo(name, DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16  # of one system, whatever wrote it
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, everything[name], compresslevel=9)
    data = buffer.getvalue()[:-SEAL]
    return data + hashlib.sha256(data).hexdigest().encode("ascii"), key


def unpack(path: Path) -> tuple[dict[str, bytes], str]:
    """Return the members of a results file, without its manifest, and its content hash.

    Raises ``BadInput``, with the path, the cause and what to do, where it is not whole, not as tailkeep writes it, of
    another version, too large, or holds a name that does not belong there.
    """
    try:
        size = path.stat().st_size
        if size > FILE_LIMIT:
            raise BadInput(f"refused, it has {size >> 20} MB, and a results file has at most {FILE_LIMIT >> 20}")
        return unpack_bytes(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def unpack_bytes(data: bytes) -> tuple[dict[str, bytes], str]:
    """Return the same of a results file's bytes; raises ``BadInput`` without a path."""
    _check_ends(data)
    members = _members(data)
    key = _check_manifest(members)
    if hashlib.sha256(data[:-SEAL]).hexdigest().encode("ascii") != data[-SEAL:]:
        raise BadInput("it has changed since it was written (its seal does not fit); copy or export it again")
    return members, key


def _check_ends(data: bytes) -> None:
    """Look at both ends before anything is parsed: what a zip's directory claims of its size is bounded here."""
    if data[:2] != b"PK":
        raise BadInput("is not a zip file; a results file is made by `tailkeep export-results`")
    ending = data[-SEAL - ENDING : -SEAL]
    if len(ending) < ENDING or ending[:4] != b"PK\x05\x06":
        raise BadInput("is not whole, or no results file: its end is missing; is the copy or the download complete?")
    large = data[-SEAL - ENDING - 20 :][:4] == b"PK\x06\x07"  # a second directory that zip readers would prefer
    directory, comment = struct.unpack("<12xI4xH", ending)
    if large or directory > DIRECTORY_LIMIT or comment != SEAL:
        raise BadInput("refused, its directory is not one that tailkeep writes; export the results again")


def _members(data: bytes) -> dict[str, bytes]:
    """Unpack in memory, no more than the limits allow."""
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > COUNT_LIMIT or sum(entry.file_size for entry in entries) > TOTAL_LIMIT:
                raise BadInput(f"refused, it would unpack to more than {TOTAL_LIMIT >> 20} MB or {COUNT_LIMIT} files")
            for entry in entries:
                _check_entry(entry)
                if entry.filename in found:
                    raise BadInput(f"refused, it holds {entry.filename!r} twice")
                with archive.open(entry) as file:
                    found[entry.filename] = file.read(entry.file_size + 1)
                if len(found[entry.filename]) != entry.file_size:
                    raise BadInput(f"its member {entry.filename!r} is cut short")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error, OverflowError) as error:
        raise BadInput(f"the zip file is damaged ({error}); copy or export it again") from error
    return found


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    if not NAMES.fullmatch(name):
        parts = re.split(r"[/\\]", name)
        outside = name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
        what = "leads outside the file" if outside else "does not belong into a results file"
        raise BadInput(f"refused, its member {name[:80]!r} {what}")
    if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"refused, its member {name!r} is encrypted or packed in a way that tailkeep does not write")
    _check_size(name, entry.file_size)


def _check_size(name: str, size: int) -> None:
    limit = ARRAY_LIMIT if name.endswith(".npy") else JSON_LIMIT
    if size > limit:
        raise BadInput(f"refused, {name!r} has {size >> 20} MB, and such a member has at most {limit >> 20}{PIECES}")


def _check_manifest(members: dict[str, bytes]) -> str:
    """Take the manifest out of the members and hold them against it; return the content hash."""
    if MANIFEST not in members:
        raise BadInput("is a zip file, but no results file: it has no manifest.json")
    manifest = parse_json(MANIFEST, members.pop(MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BadInput(f"is no results file: its manifest does not say {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise BadInput(
            f"is a results file of version {str(manifest.get('version'))[:20]!r}; this tailkeep reads version "
            f"{VERSION}. Use the tailkeep that wrote it, or export the results again"
        )
    key = manifest.pop("self", None)
    files = manifest.get("files")
    if key != content_key(manifest) or not isinstance(files, dict):
        raise BadInput("its manifest has changed (its hash does not fit); copy or export it again")
    if sorted(files) != sorted(members):
        odd = sorted(set(files) ^ set(members))
        raise BadInput(f"its manifest and its members differ: {', '.join(map(repr, odd[:5]))}")
    for name, data in members.items():
        if files[name] != {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}:
            raise BadInput(f"its member {name!r} has changed (its hash does not fit); copy or export it again")
    return str(key)
