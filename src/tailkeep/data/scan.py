"""Which files below a folder are images, and of which class: names are read, no image is opened."""

from __future__ import annotations

import difflib
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from tailkeep.data.checks import listed
from tailkeep.errors import BadInput

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"))
COUNT_LIMIT = 2_000_000
DEPTH_LIMIT = 16
_CLUTTER = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"))


@dataclass
class Found:
    """The images of a folder: ``train`` and ``test`` map a class name to its files (``test`` None: there is none).

    ``others`` are plain files that are no images, ``unread`` folders beside train/ and test/; both as relative names.
    """

    train: dict[str, list[Path]]
    test: dict[str, list[Path]] | None
    others: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def scan_folder(root: Path) -> Found:
    """Find the images of ``train/CLASS/*`` and ``test/CLASS/*``, or of ``CLASS/*`` where there is no train/.

    Names that begin with a dot (``.ipynb_checkpoints``) and the clutter of desktops are passed over. Raises
    ``BadInput`` for a link that leads outside, a linked folder, fewer than two classes, a class without a training
    image, and a test class that training does not have.
    """
    root = root.resolve()
    others: list[str] = []
    top = _folders(root)
    # A class may be called "train"; a split of that name holds folders, a class holds images.
    if "train" in top and _folders(top["train"]):
        train = _classes(top["train"], root, others)
        test = _classes(top["test"], root, others) if "test" in top else None
        unread = sorted(_shown(name) for name in top if name not in ("train", "test"))
    elif "test" in top and _folders(top["test"]):
        raise BadInput(f"{root}: holds test/ with class folders but no train/; expected train/CLASS/* or CLASS/*")
    else:
        train, test, unread = _classes(root, root, others), None, []
    found = Found(train, test, sorted(others), unread)
    _check(root, found)
    return found


def relative(root: Path, path: Path) -> str:
    """Return a file's name below ``root`` as readable text (bytes that are no UTF-8 are written as ``\\xff``)."""
    return _shown(path.relative_to(root).as_posix())


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders by name, sorted; the order must not depend on the machine's locale or file system."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not _passed_over(entry.name)]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from error
    return {name: folder / name for name in sorted(names)}


def _classes(folder: Path, root: Path, others: list[str]) -> dict[str, list[Path]]:
    if folder.is_symlink():
        raise BadInput(f"{relative(root, folder)}: a linked folder; copy it, or name its real place as the path")
    classes: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        loose = [entry.name for entry in entries if entry.is_file() and not _passed_over(entry.name)]
    others += [relative(root, folder / name) for name in loose]
    for name, path in _folders(folder).items():
        # One name written on two systems can come in two Unicode forms; they are one class.
        label = unicodedata.normalize("NFC", _shown(name))
        if label in classes:
            raise BadInput(f"{folder}: two class folders have the name {label!r} (in two Unicode forms); rename one")
        classes[label] = []
        _walk(path, root, classes[label], others, DEPTH_LIMIT)
        if sum(map(len, classes.values())) > COUNT_LIMIT:
            raise BadInput(f"{root}: more than {COUNT_LIMIT:,} images")
    return dict(sorted(classes.items()))


def _walk(folder: Path, root: Path, images: list[Path], others: list[str], depth: int) -> None:
    if folder.is_symlink():
        raise BadInput(f"{relative(root, folder)}: a linked folder; copy it, or name its real place as the path")
    if depth == 0:
        raise BadInput(f"{relative(root, folder)}: folders lie more than {DEPTH_LIMIT} deep")
    with os.scandir(folder) as entries:
        ordered = sorted((entry for entry in entries if not _passed_over(entry.name)), key=lambda entry: entry.name)
    for entry in ordered:
        path = folder / entry.name
        if entry.is_dir():
            _walk(path, root, images, others, depth - 1)
        elif path.suffix.lower() not in SUFFIXES:
            others.append(relative(root, path))
        else:
            if entry.is_symlink() and root not in path.resolve().parents:
                raise BadInput(f"{relative(root, path)}: refused, it is a link that leads outside {root}")
            # A dangling link, a pipe or a device is kept out here and named by the decoder as a damaged image would be.
            images.append(path) if entry.is_file() or entry.is_symlink() else others.append(relative(root, path))


def _check(root: Path, found: Found) -> None:
    names = list(found.train)
    if len(names) < 2:
        what = f"only the class folder {names[0]!r}" if names else "no class folder"
        raise BadInput(f"{root}: holds {what}; expected train/CLASS/* or CLASS/* with at least two classes")
    empty = [repr(name) for name, files in found.train.items() if not files]
    if empty:
        raise BadInput(f"{root}: classes without a training image: {listed(empty)}; add images or remove the folders")
    for name in found.test or ():
        if name not in found.train:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise BadInput(
                f"{root}: test/ has a class {name!r} that train/ does not have; {hint}The training classes are "
                f"{listed([repr(label) for label in names])}"
            )
