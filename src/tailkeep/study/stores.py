"""The store that --store names: a folder, or an object store by its URL. The one place that tells them apart."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tailkeep.errors import BadInput
from tailkeep.study.store import Store

Place = Path | str | Store
"""A folder, a URL, or a store that is open already."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
"""What ``Path`` makes of a URL."""


def is_url(place: Place) -> bool:
    """Whether a place is named by a URL."""
    return isinstance(place, str) and URL.match(place) is not None


def open_store(place: Place) -> Store:
    """Open a store: ``s3://bucket/prefix`` and other URLs that fsspec knows, or else a folder, which need not exist.

    ``file://`` is the folder that it names. Raises ``BadInput`` where a folder is a file, or an object store cannot be
    reached or read, and ``MissingExtra`` where the library for it is not installed.
    """
    if isinstance(place, Store):
        return place
    if isinstance(place, str) and is_url(place):
        if not place.lower().startswith("file:"):
            return _opened(place)
        place = unquote(urlsplit(place).path)
    root = Path(place)
    collapsed = COLLAPSED.match(root.as_posix())
    if collapsed is not None and not root.exists():
        scheme = collapsed[1]
        raise BadInput(f"--store {root}: a URL given as a path has lost a slash; give it as text: '{scheme}://...'")
    if root.exists() and not root.is_dir():
        raise BadInput(f"--store {root}: is a file; the store is a folder")
    return Store(root)


def _opened(url: str) -> Store:
    from tailkeep.study.object_store import ObjectStore

    store = ObjectStore(url)
    store.objects.check()
    return store


def worker_store(address: str) -> Store:
    """Open the store of a worker, which does one step after another: an object store once a process."""
    return _once(address) if is_url(address) else open_store(address)


@lru_cache(maxsize=8)
def _once(address: str) -> Store:
    return open_store(address)
