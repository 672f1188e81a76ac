"""Where ``tailkeep audit`` may write: never over what it reads or twice to one place; known before any compute."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tailkeep.errors import BadInput

PAGE, BESIDE = "report.html", "report_files"
"""What the folder of --report gets."""


@contextmanager
def written(option: str, path: Path) -> Iterator[None]:
    """Say of a place that cannot be written which option names it. Raises BadInput in place of OSError."""
    try:
        yield
    except OSError as error:
        raise _unwritable(option, path, error) from error


def check_places(outputs: Sequence[Path], report: Path | None, inputs: Sequence[tuple[str, Path]]) -> None:
    """Refuse places that would be lost or cannot be written, and make their folders.

    ``inputs`` are files and folders that are read, each with its option. Raises BadInput where an output is an input or
    lies in a folder of inputs, where two outputs are one place or lie in what ``report`` manages, and where a place
    cannot be written.
    """
    places = [("--output", path) for path in outputs]
    if report is not None:
        places += [("--report", report / PAGE), ("--report", report / BESIDE)]
    for index, (option, path) in enumerate(places):
        for which, read in inputs:
            if _same(path, read):
                raise BadInput(f"{option} {path}: this is the file of {which}, which would be lost; name another")
            if _inside(path, read):
                raise BadInput(f"{option} {path}: lies in the folder of {which} ({read}), which is read; name another")
            if option == "--report" and _inside(read, path):
                raise BadInput(
                    f"{option} {path}: holds the file of {which} ({read}), which would be lost; name another"
                )
        for _, other in places[:index]:
            if _same(path, other):
                raise BadInput(f"{option} {path}: this file is written already; give each format its own")
        if option == "--output" and report is not None and _inside(path, report / BESIDE):
            raise BadInput(f"{option} {path}: lies in what --report {report} writes; name another")
    folders = [("--output", path, path.parent) for path in outputs]
    if report is not None:
        folders.append(("--report", report, report))
    for option, path, folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{option} {path}: its folder cannot be made ({error.strerror}); name another") from error
    for option, path, folder in folders:
        with written(option, path):  # a name that is too long cannot even be looked up
            folder_there, odd = path.is_dir(), path.exists() and not path.is_file()
        if option == "--output" and folder_there:
            raise BadInput(f"{option} {path}: this is a folder; name a file")
        if option == "--output" and odd:
            raise BadInput(
                f"{option} {path}: this is a device or a pipe; name a file (--format prints to the terminal)"
            )
        _try(option, path, folder / PAGE if option == "--report" else path)


def _try(option: str, path: Path, file: Path) -> None:
    """Write and take away a file beside the one that is to come, under as long a name."""
    from tailkeep.files import temporary_name

    temporary = temporary_name(file)
    try:
        with open(temporary, "xb"):
            pass
    except OSError as error:
        raise _unwritable(option, path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _unwritable(option: str, path: Path, error: OSError) -> BadInput:
    return BadInput(f"{option} {path}: cannot be written ({error.strerror or error}); name a place that can")


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        if one.exists() and other.exists():
            return os.path.samefile(one, other)
    return _resolved(one) == _resolved(other)


def _inside(path: Path, folder: Path) -> bool:
    return _resolved(folder) in _resolved(path).parents


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return path.absolute()
