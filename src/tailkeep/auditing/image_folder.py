"""The test images of a folder: of SPLIT/CLASS/*, or of CLASS/* where all images are the test set."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tailkeep.auditing.image_pixels import CHUNK, Progress, Size, read_pixels
from tailkeep.auditing.labelled import Labelled
from tailkeep.data.checks import listed
from tailkeep.data.scan import SUFFIXES, relative, scan_folder
from tailkeep.errors import BadInput


def read_folder(
    root: Path,
    split: str,
    size: Size | None,
    channels: int | None,
    allow_bad: int,
    class_names: Sequence[str] | None,
    progress: Progress | None,
) -> Labelled:
    """Return the images below ``root``/``split``, or below ``root`` where it holds class folders alone.

    Classes are numbered by ``class_names``, else by the folders of train/ beside the split, else by the split's own,
    in the order of their names. ``ids`` are paths below ``root``. Raises ``BadInput`` where there is no such split, a
    class is unknown or has a folder without an image, and as ``scan_folder`` and ``read_pixels`` do.
    """
    folder, names = _split_folder(root, split)
    empty = sorted(name for name, path in _folders(folder).items() if not _has_image(path))
    if empty:
        raise BadInput(
            f"{folder}: class folders without an image: {listed([repr(name) for name in empty])}. Add images; or "
            "remove the folders, and where the models know these classes give the names of all their classes"
        )
    found = scan_folder(folder).train
    names = list(class_names) if class_names is not None else names or list(found)
    for name in found:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            known = listed([repr(label) for label in names])
            raise BadInput(f"{folder}: there is no class {name!r}; {hint}The classes are {known}")
    root = root.resolve()
    files = [path for paths in found.values() for path in paths]
    labels = [names.index(name) for name, paths in found.items() for _ in paths]
    ids = [relative(root, path) for path in files]

    def chunks() -> Iterator[list[tuple[str, Path]]]:
        for start in range(0, len(files), CHUNK):
            yield list(zip(ids[start : start + CHUNK], files[start : start + CHUNK], strict=True))

    pixels = read_pixels(chunks(), len(files), size, channels, allow_bad, str(folder), progress)
    return Labelled(
        "folder",
        pixels.images,
        np.array(labels, dtype=np.int64)[pixels.kept],
        tuple(names),
        np.array(ids)[pixels.kept],
        pixels.notes,
    )


def _split_folder(root: Path, split: str) -> tuple[Path, list[str]]:
    """Return the folder whose folders are classes, and the class names that train/ beside it gives (else none)."""
    top = _folders(root)
    splits = [name for name, path in top.items() if _folders(path)]
    if split in splits:
        train = _folders(top["train"]) if "train" in splits else {}
        return top[split], sorted(name for name, path in train.items() if _has_image(path))
    if "train" in splits or "test" in splits:
        raise BadInput(
            f"{root}: there is no split {split!r} with class folders; it has {', '.join(splits)}: choose one"
        )
    return root, []


def _folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders by readable name; hidden ones are passed over."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from error
    shown = {os.fsencode(name).decode("utf-8", "backslashreplace"): name for name in found}
    return {unicodedata.normalize("NFC", label): folder / name for label, name in sorted(shown.items())}


def _has_image(folder: Path) -> bool:
    """Whether there is a file with an image's name; stops at the first."""
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*") if not path.name.startswith("."))
