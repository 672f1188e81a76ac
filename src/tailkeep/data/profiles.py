"""How many training images of every class: the imbalance profiles and their two balanced twins.

Counts are given by *frequency rank*: rank 0 is the most frequent class. Which class has which rank is decided elsewhere
(``subset.class_order``), so that the same profile can make another class the rare one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer

from tailkeep.errors import BadInput
from tailkeep.spec import Spec

Ratio = Annotated[float, Field(ge=1.0, description="largest class / smallest class")]
Largest = Annotated[int, Field(ge=1, description="images of the most frequent class")]


class _Shaped(Spec):
    """A profile whose counts follow from the size of its largest class, ``n_max``."""

    ratio: Ratio
    n_max: Largest | None = None

    @property
    def label(self) -> str:
        """Short name for tables; never part of a key."""
        raise NotImplementedError

    def shape(self, n_max: int, classes: int) -> tuple[int, ...]:
        """Return the counts by rank for a largest class of ``n_max`` images, without any check against the data."""
        raise NotImplementedError

    def counts(self, available: Sequence[int]) -> tuple[int, ...]:
        """Return the images of every class by frequency rank (0 is the most frequent).

        ``available[r]`` is the number of images that the class of rank ``r`` has. ``n_max`` defaults to the smallest of
        them. Raises ``BadInput`` where a class has too few images (the text names the largest possible ``n_max``) or
        where the ratio leaves a class without an image.
        """
        _check_available(available)
        n_max = min(available) if self.n_max is None else self.n_max
        wanted = self.shape(n_max, len(available))
        for rank, (want, have) in enumerate(zip(wanted, available, strict=True)):
            if want > have:
                raise BadInput(
                    f"imbalance {self.label} at n_max {n_max}: rank {rank} needs {want} images, its class has {have}; "
                    f"the largest possible n_max is {largest_possible(self, available)}"
                )
        if min(wanted) < 1:
            raise BadInput(
                f"imbalance {self.label} with n_max {n_max}: ratio {self.ratio:g} leaves the class of rank "
                f"{wanted.index(min(wanted))} without an image; the largest possible ratio is {n_max}"
            )
        return wanted


class Exponential(_Shaped):
    """n_c = int(n_max * ratio^(-c / (C - 1))): the usual long tail (Cui et al. 2019, Cao et al. 2019)."""

    kind: Literal["exponential"] = "exponential"

    @property
    def label(self) -> str:
        """For example ``exponential-100``."""
        return f"exponential-{self.ratio:g}"

    def shape(self, n_max: int, classes: int) -> tuple[int, ...]:
        """Return the counts by rank for a largest class of ``n_max`` images."""
        return tuple(_whole(n_max * self.ratio ** (-c / (classes - 1))) for c in range(classes))


class Step(_Shaped):
    """Majority classes have n_max images, minority classes int(n_max / ratio) (Buda et al. 2018).

    ``minority_fraction`` of the classes, rounded down, are the minority: the last ranks.
    """

    kind: Literal["step"] = "step"
    minority_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5

    @property
    def label(self) -> str:
        """For example ``step-10``, or ``step-10-mu0.2`` where the minority is not one half."""
        tail = "" if self.minority_fraction == 0.5 else f"-mu{self.minority_fraction:g}"
        return f"step-{self.ratio:g}{tail}"

    def shape(self, n_max: int, classes: int) -> tuple[int, ...]:
        """Return the counts by rank; raises ``BadInput`` where the minority or the majority has no class."""
        # 0.29 * 100 is 28.999999999999996 in binary; the user meant 29.
        minority = math.floor(self.minority_fraction * classes + 1e-9)
        if not 0 < minority < classes:
            raise BadInput(
                f"imbalance {self.label}: minority_fraction {self.minority_fraction:g} of {classes} classes is "
                f"{minority} classes; it must leave at least one minority and one majority class"
            )
        return (n_max,) * (classes - minority) + (int(n_max / self.ratio),) * minority


class Linear(_Shaped):
    """n_c = int(n_max - (n_max - n_max / ratio) * c / (C - 1)) (Buda et al. 2018)."""

    kind: Literal["linear"] = "linear"

    @property
    def label(self) -> str:
        """For example ``linear-10``."""
        return f"linear-{self.ratio:g}"

    def shape(self, n_max: int, classes: int) -> tuple[int, ...]:
        """Return the counts by rank for a largest class of ``n_max`` images."""
        return tuple(_whole(n_max - (n_max - n_max / self.ratio) * c / (classes - 1)) for c in range(classes))


class Natural(Spec):
    """Every image that there is. The counts stay in the order of ``available``: the data says who is rare."""

    kind: Literal["natural"] = "natural"

    @property
    def label(self) -> str:
        """``natural``."""
        return "natural"

    def counts(self, available: Sequence[int]) -> tuple[int, ...]:
        """Return ``available`` as it is; raises ``BadInput`` where a class is empty."""
        _check_available(available)
        return tuple(int(n) for n in available)


class Explicit(Spec):
    """Counts that the study writes out, by frequency rank."""

    kind: Literal["explicit"] = "explicit"
    # Written ``counts:`` in a study file. The attribute cannot have that name, which is every profile's method.
    images: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, alias="counts")]

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        return {"kind": self.kind, "counts": list(self.images)}

    @property
    def label(self) -> str:
        """For example ``explicit-100-50-5``; from five classes on the largest, the smallest and how many."""
        if len(self.images) <= 4:
            return "explicit-" + "-".join(str(n) for n in self.images)
        return f"explicit-{max(self.images)}-to-{min(self.images)}-of-{len(self.images)}"

    def counts(self, available: Sequence[int]) -> tuple[int, ...]:
        """Return the counts; raises ``BadInput`` where their number is not the classes' or a class has too few."""
        _check_available(available)
        if len(self.images) != len(available):
            raise BadInput(f"imbalance explicit: {len(self.images)} counts for a dataset of {len(available)} classes")
        for rank, (want, have) in enumerate(zip(self.images, available, strict=True)):
            if want > have:
                possible = [min(pair) for pair in zip(self.images, available, strict=True)]
                raise BadInput(
                    f"imbalance explicit: rank {rank} asks for {want} images, its class has {have}; "
                    f"the largest possible counts are {possible}"
                )
        return self.images


Profile = Exponential | Step | Linear | Natural | Explicit


def largest_possible(profile: _Shaped, available: Sequence[int]) -> int:
    """Return the largest ``n_max`` at which no class needs more images than it has (0 where there is none).

    ``available`` is by frequency rank, as for ``counts``.
    """
    _check_available(available)
    low, high = 0, max(available)
    while low < high:  # the counts never fall as n_max grows, so bisection finds the edge
        middle = (low + high + 1) // 2
        wanted = profile.shape(middle, len(available))
        if all(want <= have for want, have in zip(wanted, available, strict=True)):
            low = middle
        else:
            high = middle - 1
    return low


def full_twin(counts: Sequence[int]) -> tuple[int, ...]:
    """Return the full balanced twin: the largest count for every class."""
    return (max(counts),) * len(counts)


def matched_twin(counts: Sequence[int]) -> tuple[int, ...]:
    """Return the matched balanced twin: floor(total / C) images of every class, so about as many images in all."""
    return (sum(counts) // len(counts),) * len(counts)


def check_counts(what: str, counts: Sequence[int], available: Sequence[int]) -> None:
    """Raise ``BadInput`` where a class has fewer images than ``counts`` wants; ``what`` names the asker (a twin)."""
    for position, (want, have) in enumerate(zip(counts, available, strict=True)):
        if want > have:
            raise BadInput(f"{what}: needs {want} images of class {position}, which has {have}")


def _whole(value: float) -> int:
    """Round down. 49 * 49 ** -1.0 is 0.9999999999999999 in binary; the definition says 1."""
    return int(value + 1e-9)


def _check_available(available: Sequence[int]) -> None:
    if len(available) < 2:
        raise BadInput(f"a study of imbalance needs at least two classes, the data has {len(available)}")
    for position, have in enumerate(available):
        if have < 1:
            raise BadInput(f"class {position} has no training image")
