"""What lies under a model file's name but is none: an empty file, a Git LFS pointer, a web page."""

from __future__ import annotations

from pathlib import Path

from tailkeep.errors import BadInput


def refuse_impostors(path: Path, what: str = "the weights") -> None:
    """Raise ``BadInput`` that says what ``path`` is instead of ``what``; files that may be it pass."""
    with open(path, "rb") as file:
        head = file.read(1024)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise BadInput(f"{path}: the file is empty; fetch it again")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise BadInput(f"{path}: this is a Git LFS pointer, not {what}; run `git lfs pull` in its repository")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise BadInput(
            f"{path}: this is a web page (HTML), not {what}; the download link led to a login or a preview page"
        )
