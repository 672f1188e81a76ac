"""Files that are whole or absent: atomic writes, hashes and paths that cannot escape their folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries durable; raises ``OSError`` where the disk fails. Nothing where the platform cannot."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EACCES, *UNSUPPORTED):
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, each durable in its parent; return it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)
    return folder


def results_folder(folder: Path) -> Path:
    """Make the folder of --out, so that a place that cannot be made is known before any compute; return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder}: cannot be made ({error.strerror})") from error
    return folder


def write_atomic(path: Path, data: bytes | str, make_parent: bool = True) -> None:
    """Write ``data`` so that a reader (or a kill) sees the old file or the new one, never a part.

    Without ``make_parent`` the folder must be there: a folder that was taken away must not come back with one file.
    """
    if make_parent:
        make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` that no other process takes; ``is_temporary`` knows it again after a kill."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a file is what a killed ``write_atomic`` left."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def create_whole(path: Path, data: bytes) -> bool:
    """Create ``path`` with its content in one step; return False, and change nothing, where it is there already.

    A hard link gives a file its name only once it is written, and refuses a name that is taken, on network file
    systems too. Where there are no hard links, an exclusive create does; a kill can then leave the file empty.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EMLINK, *UNSUPPORTED):
                raise
            return _create_exclusively(path, data)
        return True
    finally:
        with suppress(OSError):
            temporary.unlink()


def _create_exclusively(path: Path, data: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill leaves either all of it or a ``.gone`` that nobody reads."""
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
    try:
        os.rename(folder, gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def readable_json(value: Any) -> str:
    """Return the one readable JSON text of a plain value, as ``write_json`` writes it."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: Any, make_parent: bool = True) -> None:
    """Write a plain value as readable JSON, atomically."""
    write_atomic(path, readable_json(value), make_parent)


def read_json(path: Path) -> Any:
    """Read JSON; raises ``BadInput`` that names the file where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error})") from error


def safe_join(root: Path, *parts: str) -> Path:
    """Join ``parts`` below ``root``; raises ``BadInput`` where the result would lie outside it."""
    base = root.resolve()
    joined = base.joinpath(*parts).resolve()
    if joined != base and base not in joined.parents:
        raise BadInput(f"{'/'.join(parts)!r} leads outside {root}")
    return joined
