"""From a resolved study to its steps and cells. Plain values only: a step is canonical JSON and a key.

Names are labels and never enter a key, so equal work is one step, however many cells ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tailkeep.spec import content_key
from tailkeep.study.stages import Stages, stages

VERSIONS = {"train": 1, "transform": 1, "import": 1, "predict": 1, "export": 1, "measure": 1}
TRAININGS = ("train", "transform")


@dataclass(frozen=True)
class Step:
    """One unit of work. ``spec`` is the canonical content (with the parents' keys); ``label`` and ``extra`` are not."""

    key: str
    kind: str
    spec: dict[str, Any]
    label: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def parents(self) -> tuple[str, ...]:
        """Keys of the steps that must be done first."""
        return tuple(self.spec["parents"].values())


@dataclass(frozen=True)
class Cell:
    """One entry of the study's table: its labels, its model's and prediction's keys, and what it is compared with."""

    labels: dict[str, Any]  # dataset setting twin model method role seed split
    model_key: str
    predict_key: str
    counts: tuple[int, ...]
    references: dict[str, str] = field(default_factory=dict)  # name -> prediction key
    export_key: str | None = None
    export_predict_key: str | None = None  # the exported file's own prediction
    validation_key: str | None = None  # the prediction of the held-out training images, where both splits are evaluated
    stages: Stages = field(default_factory=Stages)

    @property
    def predict_keys(self) -> list[str]:
        """Keys of the cell's own predictions: the model's, that of the held-out images, the exported file's."""
        return [key for key in (self.predict_key, self.validation_key, self.export_predict_key) if key is not None]


@dataclass(frozen=True)
class Measure:
    """A measuring step, the labels that it holds for, and which method each of its parents is."""

    key: str
    labels: dict[str, Any]  # dataset setting twin model
    methods: dict[str, str]  # role of a parent -> method


@dataclass
class Plan:
    """Steps by key (parents before children) and the cells that read them."""

    name: str
    steps: dict[str, Step] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)

    @property
    def goals(self) -> list[str]:
        """Keys of the predictions, the exported files with theirs, and the measurements that the study is after."""
        files = [(cell.export_key, cell.export_predict_key) for cell in self.cells]
        exported = [key for pair in files for key in pair if key is not None]
        held_out = [cell.validation_key for cell in self.cells if cell.validation_key is not None]
        wanted = [cell.predict_key for cell in self.cells] + held_out + exported + [own.key for own in self.measures]
        return list(dict.fromkeys(wanted))

    def trainings(self, role: str | None = None) -> list[str]:
        """Keys of the distinct trainings; with ``role`` "control" those that only controls need."""
        every = [key for key, step in self.steps.items() if step.kind in TRAININGS]
        if role is None:
            return every
        main: set[str] = set()
        for cell in self.cells:
            if cell.labels["role"] != "control":
                main |= self.ancestry(cell.model_key)
        return [key for key in every if (key not in main) == (role == "control")]

    @property
    def unshared(self) -> int:
        """Trainings that the models of the study, controls apart, would take if each made its own parents."""
        models = {cell.model_key for cell in self.cells if cell.labels["role"] != "control"}
        return sum(self.steps[k].kind in TRAININGS for model in models for k in self.ancestry(model))

    def ancestry(self, key: str) -> set[str]:
        """The step and all that it descends from."""
        return closure(key, lambda here: self.steps[here].parents)

    def add(self, kind: str, spec: dict[str, Any], label: str, **extra: Any) -> str:
        """Add a step unless an equal one is there; return its key."""
        content = {"step": kind, "version": VERSIONS[kind], **spec}
        key = content_key(content)
        self.steps.setdefault(key, Step(key, kind, content, label, extra))
        return key


def closure(start: str, linked: Callable[[str], Iterable[str]]) -> set[str]:
    """Return ``start`` and all that it leads to; ``linked`` gives what one leads to at once."""
    found: set[str] = set()
    todo = [start]
    while todo:
        here = todo.pop()
        if here not in found:
            found.add(here)
            todo += linked(here)
    return found


def build_plan(resolved: Any) -> Plan:
    """Expand a ``Resolved`` study into its plan."""
    plan = Plan(resolved.name)
    for setting in resolved.settings:
        for model in resolved.models:
            if setting["twin"] != "imbalanced" and not model["twins"]:
                continue
            seeds: dict[int, _Cells] = {}
            for seed in resolved.options["seeds"]:
                _Cells.of(seed, seeds, plan, resolved, setting, model).add_all()
    if resolved.options["churn_floor"]:
        _churn_floor(plan, resolved)
    return plan


class _Cells:
    """The cells of one (dataset, setting, twin, model, seed). ``seeds`` holds those of the other seeds, by seed."""

    def __init__(
        self,
        seed: int,
        seeds: dict[int, _Cells],
        plan: Plan,
        resolved: Any,
        setting: dict[str, Any],
        model: dict[str, Any],
    ) -> None:
        self.plan, self.resolved, self.setting, self.model, self.seed = plan, resolved, setting, model, seed
        self.seeds = seeds
        self.data = setting["data"][str(seed)]
        self.options = resolved.options
        fixed = self.options["training_seed"]
        self.training_seed = seed if fixed is None else fixed
        self.where = f"{setting['dataset']} {setting['setting']} {setting['twin']} {model['label']} seed {seed}"
        self.methods = {m["name"]: m for m in resolved.methods if m["models"] is None or model["label"] in m["models"]}
        self.made: dict[str, str] = {}
        self.depths: dict[str, int] = {"dense": 0}

    @classmethod
    def of(cls, seed: int, seeds: dict[int, _Cells], *where: Any) -> _Cells:
        """Return those of a seed, made once: an ensemble asks for the teachers of all other seeds, for each seed."""
        if seed not in seeds:
            seeds[seed] = cls(seed, seeds, *where)
        return seeds[seed]

    def add_all(self) -> None:
        self._first = len(self.plan.cells)
        self.made["dense"] = self._dense()
        dense = self._cell("dense", "dense", self.made["dense"], {})
        for name, method in self.methods.items():
            if self.setting["twin"] != "imbalanced" and not method["twins"]:
                continue
            key = self._transform(name)
            if method["student"] is None:
                references = {"dense": dense}
            else:
                references = {"teacher": self._predict(self._teacher(method), "teacher")}
                if self.options["student_alone"]:
                    references["student_alone"] = self._student_alone(name, method)
            self._cell(name, "technique", key, references)
        self._continued(dense)
        if self.options["export"] and self.setting["twin"] == "imbalanced" and self.seed == self.options["seeds"][0]:
            self._measure()

    def _dense(self) -> str:
        model = self.model
        if model["weights"] is not None:
            spec = {"model": model["model"], "weights": model["weights"], "data": {"counts": len(self.data["counts"])}}
            shape = self.resolved.datasets[self.setting["dataset"]]["image_shape"]
            spec["data"]["image_shape"] = shape
            label = f"import {model['label']}"
            return self.plan.add("import", {**spec, "parents": {}}, label, path=model["weights_path"])
        return self._train(model["model"], model, f"train {self.where}", model["macs"])

    def _train(self, model: dict[str, Any], objective: dict[str, Any], label: str, macs: int) -> str:
        spec = {
            "model": model,
            "data": self.data,
            "loss": objective["loss"],
            "sampler": objective["sampler"],
            "recipe": objective["recipe"],
            "seed": self.training_seed,
            "parents": {},
        }
        return self.plan.add("train", spec, label, macs=macs)

    def _transform(self, name: str) -> str:
        """The step of a method, after those of its parent and teacher."""
        if name in self.made:
            return self.made[name]
        method = self.methods[name]
        parent = self._transform(method["parent"]) if method["parent"] != "dense" else self.made["dense"]
        self.depths[name] = self.depths[method["parent"]] + 1
        parents = {"parent": parent}
        teacher = method["teacher"]
        if teacher is not None:
            parents["teacher"] = self.made["dense"] if teacher == "dense" else self._transform(teacher)
        if method["teacher_seeds"] is not None:
            parents |= self._ensemble(method, parents)
        self.made[name] = self._add_transform(method, parents, self.depths[name], f"{name}: {self.where}")
        return self.made[name]

    def _ensemble(self, method: dict[str, Any], parents: dict[str, str]) -> dict[str, str]:
        """The teacher of this seed and the same one of the other seeds, each under a role of its own."""
        name, wanted = method["teacher"] or method["parent"], method["teacher_seeds"]
        seeds = self.options["seeds"] if wanted == "all" else wanted
        teachers = {"teacher": parents.get("teacher", parents["parent"])}
        for seed in seeds:
            if seed != self.seed:
                other = _Cells.of(seed, self.seeds, self.plan, self.resolved, self.setting, self.model)
                if "dense" not in other.made:
                    other.made["dense"] = other._dense()
                teachers[f"teacher_{len(teachers)}"] = (
                    other.made["dense"] if name == "dense" else other._transform(name)
                )
        return teachers

    def _add_transform(self, method: dict[str, Any], parents: dict[str, str], depth: int, label: str) -> str:
        spec = {
            "method": method["method"],
            "method_version": method["method_version"],
            "student": method["student"],
            "data": self.data,
            "loss": method["loss"],
            "sampler": method["sampler"],
            "recipe": method["recipe"],
            "seed": self.training_seed,
            "depth": depth,
            "parents": parents,
        }
        macs = method["student_macs"] or self.model["macs"]
        return self.plan.add("transform", spec, label, macs=macs)

    def _teacher(self, method: dict[str, Any]) -> str:
        name = method["teacher"] or method["parent"]
        return self.made[name]

    def _predict(self, model_key: str, label: str, role: str = "model", split: str | None = None) -> str:
        split = split or self.options["split"]
        dataset = self.resolved.datasets[self.setting["dataset"]]
        data: dict[str, Any] = {"digest": dataset["test"]}
        if split == "validation":
            data = {"digest": dataset["train"], "validation": self.data["validation"]}
        extra = {"train": dataset["train"]}
        spec = {"split": split, "data": data, "parents": {role: model_key}}
        return self.plan.add("predict", spec, f"predict {label}: {self.where}", **extra)

    def _cell(self, method: str, role: str, model_key: str, references: dict[str, str]) -> str:
        predict = self._predict(model_key, method)
        export, exported = None, None
        if self.options["export"] and self.setting["twin"] == "imbalanced" and role != "control":
            export, exported = self._export(model_key, method)
        labels = {
            "dataset": self.setting["dataset"],
            "setting": self.setting["setting"],
            "twin": self.setting["twin"],
            "model": self.model["label"],
            "method": method,
            "role": role,
            "seed": self.seed,
            "split": self.options["split"],
        }
        counts = tuple(self.data["counts"])
        held_out = None
        if self.options["evaluate"] == "both":
            held_out = self._predict(model_key, f"{method} (validation)", split="validation")
        chain = stages(self.model, self._chain(method))
        self.plan.cells.append(Cell(labels, model_key, predict, counts, references, export, exported, held_out, chain))
        return predict

    def _chain(self, name: str) -> list[dict[str, Any]]:
        """The methods that lead from the dense model to one of them, in order; none for a control."""
        found: list[dict[str, Any]] = []
        while name in self.methods:
            found.insert(0, self.methods[name])
            name = str(found[0]["parent"])
        return found

    def _export(self, model_key: str, label: str) -> tuple[str, str]:
        """The file of a model, and that file's own prediction."""
        settings = self.options["export"]
        spec = {"format": settings["format"], "parents": {"model": model_key}}
        if settings["pack_weights"]:  # told only where it is asked for: the keys of files without it stay
            spec["pack_weights"] = True
        export = self.plan.add("export", spec, f"export {label}: {self.where}")
        ran = self._predict(export, f"{label} (exported)", "export")
        return export, ran

    def _measure(self) -> None:
        """Time this seed's files, but for those that no kernel runs: their bits of activations are below 8."""
        settings = self.options["export"]
        if not settings["latency"]:
            return
        parents: dict[str, str] = {}
        names: dict[str, str] = {}
        for cell in self.plan.cells[self._first :]:
            method = self.methods.get(cell.labels["method"])
            bits = 32 if method is None else method["method"].get("activation_bits", 32)
            if cell.export_key is not None and bits >= 8:
                role = "dense" if method is None else f"m{len(names)}"
                parents[role], names[role] = cell.export_key, str(cell.labels["method"])
        shape = self.resolved.datasets[self.setting["dataset"]]["image_shape"]
        spec = {name: settings[name] for name in ("batches", "threads", "rounds")}
        key = self.plan.add("measure", {**spec, "image_shape": shape, "parents": parents}, f"time: {self.where}")
        labels = {name: self.setting[name] for name in ("dataset", "setting", "twin")}
        self.plan.measures.append(Measure(key, {**labels, "model": self.model["label"]}, names))

    def _student_alone(self, name: str, method: dict[str, Any]) -> str:
        """The same student with the same recipe and no teacher; where that equals a dense model, it is that one."""
        key = self._train(method["student"], method, f"student alone ({name}): {self.where}", method["student_macs"])
        return self._cell(f"student alone ({name})", "control", key, {})

    def _continued(self, dense: str) -> None:
        """The dense model through the same fine-tuning, uncompressed: once for each distinct recipe and objective."""
        made: set[str] = set()
        for name in self.options["continued"]:
            method = self.methods.get(name)
            if method is None or method["student"] is not None or method["parent"] != "dense":
                continue
            if _length(method["recipe"]) == 0:
                continue
            plain = {**method, "method": {"kind": "continue"}, "method_version": 1}
            label = f"continued ({name}): {self.where}"
            key = self._add_transform(plain, {"parent": self.made["dense"]}, 1, label)
            if key not in made:
                made.add(key)
                self._cell(f"dense continued ({name} recipe)", "control", key, {"dense": dense})


def _length(recipe: dict[str, Any]) -> float:
    return float(recipe["epochs"] if recipe["steps"] is None else recipe["steps"])


def _churn_floor(plan: Plan, resolved: Any) -> None:
    """Compare each dense cell with the dense cell of the next seed that has the same counts by class."""
    dense: dict[tuple[Any, ...], dict[int, Cell]] = {}
    for cell in plan.cells:
        if cell.labels["method"] == "dense":
            where = tuple(cell.labels[k] for k in ("dataset", "setting", "twin", "model")) + cell.counts
            dense.setdefault(where, {})[cell.labels["seed"]] = cell
    for group in dense.values():
        seeds = list(group)
        for index, seed in enumerate(seeds):
            other = group[seeds[(index + 1) % len(seeds)]]
            if other.predict_key != group[seed].predict_key:
                group[seed].references["other_seed"] = other.predict_key
