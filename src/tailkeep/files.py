"""Files that are whole or absent: atomic writes, hashes and paths that cannot escape their folder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries durable. Does nothing where the platform cannot."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` so that a reader (or a kill) sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_folder(path.parent)


def readable_json(value: Any) -> str:
    """Return the one readable JSON text of a plain value, as ``write_json`` writes it."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a plain value as readable JSON, atomically."""
    write_atomic(path, readable_json(value))


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
