"""Results that came from other machines, as the store's readers see them: predictions as labels, no weights, no logits.

``store/imported/`` holds results files under the hash of their content. A process that reads one checks it whole, so
that a changed one is never served. What this machine stored itself always goes first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.errors import BadInput
from tailkeep.frame import label_rows
from tailkeep.study.plan import Cell, Plan
from tailkeep.study.store import Store
from tailkeep.study.travel_archive import unpack
from tailkeep.study.travel_check import check_content
from tailkeep.study.travel_format import CellFacts, Content, PredictionFacts, StepFacts, from_members
from tailkeep.study.travel_frame import losses_of, printable

FOLDER = "imported"
SUFFIX = ".results.zip"
ENVIRONMENT = ("torch", "machine", "cpu", "device", "gpu")


@dataclass(frozen=True)
class Source:
    """A results file that was read and checked. ``key`` is the hash of its content."""

    path: Path
    key: str
    content: Content
    losses: dict[str, list[float]]

    def __str__(self) -> str:
        return f"{self.path} (study {printable(self.content.study.name)!r}, {', '.join(self.environments())})"

    def environments(self) -> list[str]:
        """Return what the predictions ran on, in words."""
        used = {step.environment for key, step in self.content.steps.items() if key in self.content.predictions}
        return list(dict.fromkeys(environment_words(self.content, index) for index in sorted(used - {None}, key=str)))


@dataclass(frozen=True)
class Prediction:
    """A prediction that was imported: ``labels`` and ``guesses`` are class indices (N,)."""

    source: Source
    facts: PredictionFacts
    labels: NDArray[Any]
    guesses: NDArray[Any]
    ids: list[str]
    losses: list[float] | None  # sums by class in nats; none for an exported file's own prediction

    def guesses_for(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return the predicted labels for images of these true labels; raises ``BadInput`` where they are others."""
        if not np.array_equal(labels, self.labels):
            raise BadInput(f"{self.source}: its images have other labels than those of this store; remove the file")
        return self.guesses


@dataclass
class Imported:
    """All that was imported into a store; the first of equal keys counts, in the order of the content hashes."""

    sources: list[Source] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # files that do not check, and so do not count

    def __post_init__(self) -> None:
        self._predictions: dict[str, Source] = {}
        self._steps: dict[str, StepFacts] = {}
        self._files: dict[str, CellFacts] = {}
        rank = {"done": 2, "failed": 1, "missing": 0}
        for source in self.sources:
            for key in source.content.predictions:
                self._predictions.setdefault(key, source)
            for key, step in source.content.steps.items():
                known = self._steps.get(key)
                if known is None or (rank[known.status], known.cost is not None) < (
                    rank[step.status],
                    step.cost is not None,
                ):
                    self._steps[key] = step
            for cell in source.content.cells:
                if cell.export_key is not None and cell.file is not None:
                    self._files.setdefault(cell.export_key, cell)

    def __contains__(self, key: object) -> bool:
        return key in self._predictions

    def has(self, key: str) -> bool:
        """Whether a goal of a study is there: a prediction, or the facts of an exported file."""
        return key in self._predictions or key in self._files

    def prediction(self, key: str | None) -> Prediction | None:
        """Return a prediction by the key of its step."""
        source = self._predictions.get(key or "")
        if source is None or key is None:
            return None
        content = source.content
        facts = content.predictions[key]
        return Prediction(
            source=source,
            facts=facts,
            labels=content.labels[facts.group],
            guesses=content.guesses[facts.group][facts.row],
            ids=content.ids[facts.group],
            losses=source.losses.get(key),
        )

    def step(self, key: str) -> StepFacts | None:
        """Return what is known of a step."""
        return self._steps.get(key)

    def environment(self, key: str) -> dict[str, Any] | None:
        """Return what the step of an imported prediction ran on."""
        source = self._predictions.get(key)
        if source is None:
            return None
        index = source.content.steps[key].environment
        return None if index is None else dict(source.content.study.environments[index])

    def file_facts(self, export_key: str | None) -> dict[str, Any]:
        """Return the sizes and the agreement of an exported model file, where they are known."""
        cell = self._files.get(export_key or "")
        facts = None if cell is None or cell.file is None else cell.file.plain()
        return {} if facts is None else {name: value for name, value in facts.items() if value is not None}

    def rows(
        self, cell: Cell, class_names: list[str], stored: Callable[[str], NDArray[Any] | None]
    ) -> list[dict[str, Any]]:
        """Return the frame's rows of an imported cell; ``stored(key)`` gives predicted labels of this store's own."""
        own = self.prediction(cell.predict_key)
        assert own is not None
        found = self._rows(cell.labels, own, class_names, cell.counts)
        for name, key in cell.references.items():
            other, brought = stored(key), self.prediction(key)
            if other is None and brought is not None:
                other = brought.guesses_for(own.labels)
            if other is not None:
                found += self._rows(cell.labels, own, class_names, cell.counts, name, other)
        return found

    def validation_rows(self, cell: Cell, class_names: list[str]) -> list[dict[str, Any]]:
        """Return the frame's rows of a cell's held-out images, where they were imported."""
        held_out = self.prediction(cell.validation_key)
        if held_out is None:
            return []
        return self._rows({**cell.labels, "split": "validation"}, held_out, class_names, cell.counts)

    def _rows(
        self,
        labels: dict[str, Any],
        own: Prediction,
        class_names: list[str],
        counts: tuple[int, ...],
        reference: str = "self",
        other: NDArray[Any] | None = None,
    ) -> list[dict[str, Any]]:
        if own.losses is None:
            raise BadInput(f"{own.source}: has no losses of {labels['method']} (seed {labels['seed']})")
        return label_rows(labels, own.labels, own.guesses, class_names, counts, own.losses, reference, other)


def environment_words(content: Content, index: int | None) -> str:
    """Return one environment of a results file in words."""
    if index is None:
        return "an unknown environment"
    facts = content.study.environments[index]
    words = [f"{'torch ' if name == 'torch' else ''}{facts[name]}" for name in ENVIRONMENT if facts.get(name)]
    words += [f"{facts['threads']} thread{'' if facts['threads'] == 1 else 's'}"] if "threads" in facts else []
    return printable(" ".join(words))


def read_results(path: Path) -> Source:
    """Read a results file and check all that can be checked of it; raises ``BadInput`` with the path and the cause."""
    members, key = unpack(path)
    try:
        content = from_members(members)
        check_content(content)
        losses = {step: sums for (_, step), sums in losses_of(content).items()}
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    return Source(path, key, content, losses)


def imported(store: Store) -> Imported:
    """Return what was imported into a store. A file is read once a process, unless it changes."""
    paths = store.files_in(FOLDER, SUFFIX)
    facts = [(path, path.stat()) for path in paths]
    return _merged(tuple((path, fact.st_mtime_ns, fact.st_size) for path, fact in facts))


@lru_cache(maxsize=8)
def _merged(files: tuple[tuple[Path, int, int], ...]) -> Imported:
    read = [_read(*file) for file in files]
    sources = [source for source in read if isinstance(source, Source)]
    return Imported(sources, [fault for fault in read if isinstance(fault, str)])


@lru_cache(maxsize=256)
def _read(path: Path, changed: int, size: int) -> Source | str:
    """A file that was read and checked, or what is wrong with it."""
    try:
        source = read_results(path)
    except BadInput as error:
        return str(error)
    return source if source.key == path.name.removesuffix(SUFFIX) else f"{path}: is not named after its content"


def is_brought(cell: Cell, store: Store, brought: Imported) -> bool:
    """Whether a cell is there whole (all its predictions), and at least one of them only as an import."""
    own = [store.status("predict", key) == "done" for key in cell.predict_keys]
    return not all(own) and all(done or key in brought for done, key in zip(own, cell.predict_keys, strict=True))


def remaining(plan: Plan, store: Store) -> Plan:
    """Return the plan without the goals of cells that are imported whole, so that a run does not do them again.

    A model that another cell descends from is still trained, since models do not travel; a measurement of an imported
    cell's file is left out with it.
    """
    brought = imported(store)
    if not brought.sources:
        return plan
    gone = [cell for cell in plan.cells if is_brought(cell, store, brought)]
    if not gone:
        return plan
    files = {c.export_key for c in gone if c.export_key is not None and store.status("export", c.export_key) != "done"}
    measures = [own for own in plan.measures if not files & set(plan.steps[own.key].parents)]
    kept = [cell for cell in plan.cells if all(cell is not other for other in gone)]
    return dataclasses.replace(plan, cells=kept, measures=measures)


def brought_notes(plan: Plan, store: Store) -> list[str]:
    """Say how many cells are imported and from where, and what was imported but does not count."""
    brought = imported(store)
    notes = [f"An imported file does not count: {fault}" for fault in brought.faults]
    keys = [c.predict_key for c in plan.cells if store.status("predict", c.predict_key) != "done"]
    keys = [key for key in keys if key in brought]
    if keys:
        sources = {id(own.source): own.source for own in map(brought.prediction, keys) if own is not None}
        where = list(dict.fromkeys(words for source in sources.values() for words in source.environments()))
        notes.append(
            f"Imported: {len(keys)} of {len(plan.cells)} cells, from {len(sources)} results "
            f"file{'' if len(sources) == 1 else 's'} ({'; '.join(where)}). Their models are not in this store."
        )
    mine = {cell.predict_key for cell in plan.cells}
    for source in brought.sources:
        cells = {cell.predict_key for cell in source.content.cells} & set(source.content.predictions)
        if source.content.study.name == plan.name and not cells & mine:
            notes.append(
                f"Imported, but none of its {len(cells)} cells is one of this study's: {source.path.name}. "
                "Its settings, its data or its version of tailkeep differ."
            )
    return notes
