"""Fetches an official archive, with a progress display, into the cache: whole and with the right checksum, or not."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import IO

from tailkeep.errors import BadInput

TIMEOUT_SECONDS = 30.0
SIZE_LIMIT = 512 << 20


def md5_file(path: Path) -> str:
    """Return the MD5 of a file as 32 hex digits (the checksum that the archives' authors publish)."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def open_url(url: str) -> IO[bytes]:
    """Open an address for reading; tests put their own in its place."""
    response: IO[bytes] = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    return response


def download(url: str, target: Path, md5: str, advice: str) -> Path:
    """Fetch ``url`` to ``target`` unless it is there; return ``target``.

    Raises ``BadInput`` where the file cannot be fetched (``advice`` says what to do by hand) or where its checksum is
    not ``md5``; nothing is left at ``target`` then.
    """
    if target.is_file():
        if md5_file(target) == md5:
            return target
        raise BadInput(f"{target}: its checksum is not the official one; delete the file to fetch it again")
    partial = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(url, partial)
        if found != md5:
            raise BadInput(f"{url}: the file that came has checksum {found}, the official one is {md5}; not kept")
        os.replace(partial, target)
    except (OSError, urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
        raise BadInput(f"{url} cannot be fetched ({error}). {advice}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _fetch(url: str, partial: Path) -> str:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    digest = hashlib.md5(usedforsecurity=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        open_url(url) as response,
        open(partial, "wb") as file,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        headers = getattr(response, "headers", None)
        length = headers.get("Content-Length") if headers is not None else None
        total = int(length) if length is not None else None
        task = progress.add_task(url.rsplit("/", 1)[-1], total=total)
        received = 0
        while chunk := response.read(1 << 18):
            received += len(chunk)
            if received > SIZE_LIMIT:
                raise BadInput(f"{url}: refused, it gives more than {SIZE_LIMIT >> 20} MB")
            digest.update(chunk)
            file.write(chunk)
            progress.update(task, advance=len(chunk))
        if total is not None and received != total:
            raise ValueError(f"{received} of {total} bytes came")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
