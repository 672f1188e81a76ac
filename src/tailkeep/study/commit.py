"""The manifest of a step on an object store: which try counts, and the hash of each of its files and of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tailkeep.files import readable_json
from tailkeep.spec import content_key


@dataclass(frozen=True)
class Commit:
    """A manifest that checks. ``files``: name -> SHA-256 and bytes; ``version`` is the object's on the server."""

    token: str
    status: str
    files: dict[str, dict[str, Any]]
    version: str


def manifest_text(body: dict[str, Any]) -> bytes:
    """Return the bytes of a manifest, with a hash of itself."""
    return readable_json({**body, "self": content_key(body)}).encode("utf-8")


def committed(text: bytes, key: str, version: str) -> Commit | None:
    """Return what a manifest says; None where it does not check, or is another step's."""
    try:
        facts = json.loads(text)
        body = {name: facts[name] for name in ("key", "token", "status", "files")}
        if text != manifest_text(body) or facts["key"] != key:
            return None
        files = {
            str(name): {"sha256": str(of["sha256"]), "bytes": int(of["bytes"])} for name, of in facts["files"].items()
        }
        token = str(facts["token"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return None
    if any("/" in name or name.startswith(".") for name in (token, *files)):  # it came from outside
        return None
    return Commit(token, str(facts["status"]), files, version)
