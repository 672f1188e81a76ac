"""The images that two models are compared on: a folder, an array file, a dataset on disk, or CIFAR's own files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.arrow_files import SUFFIXES
from tailkeep.auditing.image_arrays import read_arrays
from tailkeep.auditing.image_datasets import read_dataset
from tailkeep.auditing.image_folder import read_folder
from tailkeep.auditing.image_pixels import Progress
from tailkeep.auditing.labelled import Labelled, in_order
from tailkeep.data.checks import listed
from tailkeep.data.cifar import Cifar10, Cifar100
from tailkeep.data.dataset import split_digest
from tailkeep.errors import BadInput

FORMS = ("folder", "arrays", "huggingface", "cifar10", "cifar100")
SIDES = (1, 4096)
_OFFICIAL: dict[str, tuple[type[Cifar10] | type[Cifar100], str, str, tuple[str, ...]]] = {
    "cifar10": (Cifar10, "cifar-10-batches-py", "cifar-10-python.tar.gz", ("batches.meta", "test_batch")),
    "cifar100": (Cifar100, "cifar-100-python", "cifar-100-python.tar.gz", ("meta", "test", "train")),
}


@dataclass(frozen=True, eq=False)
class TestImages:
    """Labelled test images, as they are before a model's own normalisation.

    ``images`` uint8 (N, C, H, W), possibly memory-mapped; ``labels`` int64 (N,), indices into ``class_names``, which
    are in the order of the models' outputs; ``ids`` str (N,), paths below a folder, else "split/row". A model sees
    ``(images / 255 - mean) / std``, one value a channel. ``sha256`` is that of class names, labels and pixels.
    ``notes`` say what was converted, skipped or is missing; ``source`` is the path and ``form`` how it was read.
    """

    __test__ = False  # no test of pytest's

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    ids: NDArray[np.str_]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    source: str
    form: str
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.images.shape
        return int(channels), int(height), int(width)


def read_images(
    path: str | Path,
    *,
    form: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    split: str = "test",
    allow_bad: int = 0,
    class_names: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> TestImages:
    """Read the labelled test images at ``path``.

    ``form``: "folder" (SPLIT/CLASS/* or CLASS/*), "arrays" (an ``.npz``), "huggingface" (a ``save_to_disk`` folder,
    Parquet or Arrow files), "cifar10", "cifar100" (the official files), or "auto". ``image_size`` (height, width), or
    one number for both, is what image files are resized to; without it they must all have one size. ``channels`` 1 or
    3; without it 1 where all files are grey. ``mean`` and ``std`` are those of the models' training, of pixels from 0
    to 1; 0.5 and 0.5, tailkeep's own, map them to -1..1. ``class_names`` are in the order of the models' outputs where
    that is not the order of the source. ``allow_bad`` damaged images may be skipped.

    Raises ``BadInput`` that names the place, the cause and the fix.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise BadInput(f"{path}: there is no such file or folder of test images")
    if class_names is not None and (len(class_names) < 2 or len(set(class_names)) != len(class_names)):
        raise BadInput("class names: expected two or more, all different")
    form = find_form(path) if form == "auto" else form
    size = _size(image_size)
    if channels not in (None, 1, 3):
        raise BadInput(f"channels {channels} must be 1 or 3")
    if form == "folder":
        found = read_folder(path, split, size, channels, allow_bad, class_names, progress)
    elif form == "huggingface":
        found = read_dataset(
            path, split, size, channels, allow_bad, class_names, image_column, label_column, progress
        )  # fmt: skip
    elif form == "arrays":
        found = read_arrays(path, split, class_names)
    elif form in _OFFICIAL:
        found = _official(path, form, split, class_names, cache)
    else:
        raise BadInput(f"form {form!r} of test images is not one of auto, {', '.join(FORMS)}")
    _check(path, found, size, channels)
    means, stds = _normalisation(found.images.shape[1], mean, std)
    digest = split_digest(found.images, found.labels, found.class_names)
    notes = (*found.notes, *_absent(found))
    return TestImages(
        found.images, found.labels, found.class_names, found.ids, means, stds, digest, str(path), form, notes
    )


def find_form(path: Path) -> str:
    """Return the form that the files at ``path`` have. Raises ``BadInput`` for a file of another kind."""
    for form, (_, folder, archive, members) in _OFFICIAL.items():
        if path.name == archive or (path / archive).is_file() or (path / folder).is_dir():
            return form
        if all((path / name).is_file() for name in members):
            return form
    if path.is_dir():
        saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
        return "huggingface" if saved or _holds(path) else "folder"
    if path.suffix == ".npz":
        return "arrays"
    if path.suffix in SUFFIXES:
        return "huggingface"
    raise BadInput(
        f"{path}: test images do not come as {path.suffix or 'such a file'}; give a folder of CLASS folders, an .npz, "
        "a Hugging Face dataset (folder, .parquet) or CIFAR's official files; other archives are to be unpacked first"
    )


def _holds(folder: Path) -> bool:
    """Whether Parquet or Arrow files lie in a folder or one below it."""
    patterns = [f"{below}*{suffix}" for below in ("", "*/", "*/*/") for suffix in SUFFIXES]
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _size(given: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    height, width = (given, given) if isinstance(given, int) else given
    if not (SIDES[0] <= height <= SIDES[1] and SIDES[0] <= width <= SIDES[1]):
        raise BadInput(f"image size {height} x {width}: each side is {SIDES[0]} to {SIDES[1]} pixels")
    return height, width


def _official(
    path: Path, form: str, split: str, class_names: Sequence[str] | None, cache: Path | None
) -> Labelled:  # fmt: skip
    data = _OFFICIAL[form][0]().load(path, cache)
    if split not in ("train", "test"):
        raise BadInput(f"{path}: there is no split {split!r}; CIFAR has train and test")
    part = data.train if split == "train" else data.test
    labels, names = in_order(str(path), part.labels, data.class_names, class_names)
    return Labelled(form, part.images, labels, names, part.ids, data.notes)


def _check(path: Path, found: Labelled, size: tuple[int, int] | None, channels: int | None) -> None:
    """Refuse what only image files can be asked for, and what no model could be audited on."""
    _, has, height, width = found.images.shape
    if (size is not None and size != (height, width)) or channels not in (None, has):
        raise BadInput(
            f"{path}: its images are {has} x {height} x {width} (channels, height, width) and are taken as they are; "
            "only image files are resized or converted"
        )
    if len(found.class_names) < 2:
        raise BadInput(f"{path}: expected two classes or more, found {', '.join(found.class_names)}")


def _normalisation(
    channels: int, mean: float | Sequence[float], std: float | Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std with one finite value a channel."""
    result = []
    for what, given in (("mean", mean), ("std", std)):
        values = (float(given),) if isinstance(given, (int, float)) else tuple(float(value) for value in given)
        values = values * channels if len(values) == 1 else values
        if len(values) != channels:
            raise BadInput(f"{what} has {len(values)} values, and the images have {channels} channels")
        if not all(math.isfinite(value) for value in values) or (what == "std" and min(values) <= 0):
            raise BadInput(f"{what} {values}: expected finite numbers{', above 0' if what == 'std' else ''}")
        if what == "mean" and max(map(abs, values)) > 2:
            raise BadInput(f"mean {values} looks like one of pixels from 0 to 255; give mean and std of pixels 0 to 1")
        result.append(values)
    return result[0], result[1]


def _absent(found: Labelled) -> tuple[str, ...]:
    counts = np.bincount(found.labels, minlength=len(found.class_names))
    absent = [repr(name) for name, count in zip(found.class_names, counts, strict=True) if count == 0]
    return (f"no test image is of {listed(absent)}: nothing can be said of them",) if absent else ()
