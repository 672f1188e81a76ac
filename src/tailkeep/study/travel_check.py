"""What anyone can check of a results file without data and without weights. The first thing that does not hold is told.

Checked: every step's key is the hash of its content, with all that it descends from; every cell stands on the steps
that it names and on the data that the study names; the rows of the frame are those that the predicted labels give; the
sums of losses are possible; the result hash is that of the parts. Labels are words of whoever exported, and no hash
covers them: an import goes by keys, and takes the labels from the reader's own study file.
"""

from __future__ import annotations

from tailkeep.errors import BadInput
from tailkeep.spec import content_key
from tailkeep.study.plan import VERSIONS, closure
from tailkeep.study.result_hash import CellHashes, hash_of
from tailkeep.study.travel_format import CellFacts, Content, DataFacts, Group, StepFacts
from tailkeep.study.travel_frame import check_frame, named, printable

MODELS = ("train", "transform", "import")


def check_content(content: Content) -> None:
    """Raise ``BadInput`` with the first thing that does not hold."""
    _check_steps(content)
    _check_groups(content)
    used: set[str] = set()
    for cell in content.cells:
        used |= _check_cell(content, cell)
    stray = sorted(set(content.steps) - used)
    if stray:
        raise BadInput(f"the step {stray[0][:12]} belongs to no cell")
    known = {key for cell in content.cells for key in cell.predict_keys}
    stray = sorted(set(content.predictions) - known)
    if stray:
        raise BadInput(f"the prediction {stray[0][:12]} belongs to no cell")
    check_frame(content)
    found = result_hash_of(content)
    if found != content.study.result_hash:
        raise BadInput(f"the result hash is {found[:16]} by its parts, not {content.study.result_hash[:16]}")


def result_hash_of(content: Content) -> str:
    """Return the result hash (see ``results.result_hash``) from a file's parts."""
    return hash_of(_hashes(content, cell) for cell in content.cells)


def _hashes(content: Content, cell: CellFacts) -> CellHashes:
    facts = content.predictions.get(cell.predict_key)
    if facts is None:
        return CellHashes(cell.predict_key)
    others = {key: content.predictions.get(key) for key in cell.predict_keys[1:]}
    beside = {key: None if other is None else other.logits_sha256 for key, other in others.items()}
    return CellHashes(cell.predict_key, facts.model_sha256, facts.arrays_sha256, beside)


def parents_of(step: StepFacts) -> dict[str, str]:
    """Return the parents of a step that was checked, by role."""
    return dict(step.spec["parents"])


def _check_steps(content: Content) -> None:
    """Every key is the hash of its content, so no chain of parents can run in a circle."""
    for key, step in content.steps.items():
        if content_key(step.spec) != key:
            raise BadInput(f"the step {key[:12]} is not what its key says: its content hashes to another key")
        kind = step.spec.get("step")
        if not isinstance(kind, str) or kind not in VERSIONS or type(step.spec.get("version")) is not int:
            raise BadInput(f"the step {key[:12]} is of no kind that tailkeep knows")
        parents = step.spec.get("parents")
        if not isinstance(parents, dict) or not all(isinstance(parent, str) for parent in parents.values()):
            raise BadInput(f"the step {key[:12]} does not name its parents")
        lacking = [parent for parent in parents.values() if parent not in content.steps]
        if lacking:
            raise BadInput(f"the step {key[:12]} descends from {lacking[0][:12]!r}, which is not in the file")
        if (step.status == "failed") != (step.reason is not None):
            raise BadInput(f"the step {key[:12]} says {step.status!r}, which its reason contradicts")
        if step.environment is not None and step.environment >= len(content.study.environments):
            raise BadInput(f"the step {key[:12]} names an environment that is not in the file")
        done = kind == "predict" and step.status == "done"
        if done != (key in content.predictions):
            raise BadInput(f"the step {key[:12]} says {step.status!r}, but its prediction says otherwise")
    stray = sorted(set(content.predictions) - set(content.steps))
    if stray:
        raise BadInput(f"the prediction {stray[0][:12]} is of no step in the file")


def _data_of(content: Content, dataset: str) -> DataFacts:
    if dataset not in content.study.data:
        raise BadInput(f"the dataset {printable(dataset)!r} is not one of the study's")
    return content.study.data[dataset]


def _check_groups(content: Content) -> None:
    """The arrays fit together, hold classes that there are, and are of the data that the study names."""
    rows: dict[str, list[int]] = {name: [] for name in content.groups}
    for key, facts in content.predictions.items():
        if facts.group not in content.groups:
            raise BadInput(f"the prediction {key[:12]} is of a group that is not in the file")
        rows[facts.group].append(facts.row)
        group, spec = content.groups[facts.group], content.steps[key].spec
        if spec.get("split") != group.split or spec.get("data") != group.data:
            raise BadInput(f"the prediction {key[:12]} is of other images than its group")
    for name, group in content.groups.items():
        data = _data_of(content, group.dataset)
        if group.data.get("digest") != (data.test if group.split == "test" else data.train):
            raise BadInput(f"the {group.split} images of {printable(group.dataset)!r} are other data than the study's")
        if name != group_name(group):
            raise BadInput(f"the group {name} is not named after its content")
        labels, guesses, classes = content.labels[name], content.guesses[name], len(data.class_names)
        if sorted(rows[name]) != list(range(len(guesses))):
            raise BadInput(f"predictions-{name}.npy has {len(guesses)} rows, which are not those of its predictions")
        if not len(labels) == guesses.shape[1] == len(content.ids[name]) > 0:
            shapes = f"{len(labels)} labels, {guesses.shape[1]} predictions, {len(content.ids[name])} ids"
            raise BadInput(f"the group {name} does not fit together: {shapes}")
        if max(labels.max(), guesses.max(initial=0)) >= classes:
            raise BadInput(f"the group {name} holds a class index beyond its {classes} classes")


def group_name(group: Group) -> str:
    """Return the name of a group: a short hash of what its images are."""
    return content_key({"split": group.split, "data": group.data})[:16]


def _check_cell(content: Content, cell: CellFacts) -> set[str]:
    """Hold a cell against its steps; return the keys of all the steps that it stands on."""
    who, steps, labels = named(cell), content.steps, cell.labels
    data = _data_of(content, labels.dataset)
    if len(cell.counts) != len(data.class_names):
        raise BadInput(f"{who}: {len(cell.counts)} training counts for {len(data.class_names)} classes")
    links: list[tuple[str, str, str, str]] = [("model", cell.predict_key, cell.model_key, labels.split)]
    if cell.validation_key is not None:
        links.append(("model", cell.validation_key, cell.model_key, "validation"))
    if (cell.export_key is None) != (cell.export_predict_key is None):
        raise BadInput(f"{who}: an exported file and its prediction go together")
    if cell.export_key is not None and cell.export_predict_key is not None:
        links.append(("model", cell.export_key, cell.model_key, ""))
        links.append(("export", cell.export_predict_key, cell.export_key, labels.split))
    kinds = {cell.model_key: MODELS, cell.export_key: ("export",)}
    for role, key, parent, split in links:
        if key not in steps or parents_of(steps[key]) != {role: parent}:
            raise BadInput(f"{who}: the step {key[:12]} is not in the file, or not one of this cell's model")
        if steps[parent].spec["step"] not in kinds[parent]:
            raise BadInput(f"{who}: the step {parent[:12]} is no {' or '.join(kinds[parent])}")
        expected = "predict" if split else "export"
        if steps[key].spec["step"] != expected or (split and steps[key].spec.get("split") != split):
            raise BadInput(f"{who}: the step {key[:12]} is not the {split} {expected} that the cell says")
    for name, key in cell.references.items():
        own, other = content.predictions.get(cell.predict_key), content.predictions.get(key)
        if own is None or other is None or own.group != other.group or name == "self":
            raise BadInput(f"{who}: its reference {printable(name)!r} is no prediction of the same images in the file")
    used = set().union(*(closure(key, lambda here: parents_of(content.steps[here]).values()) for _, key, _, _ in links))
    _check_data(content, cell, data, used)
    _check_agreement(content, cell)
    return used


def _check_data(content: Content, cell: CellFacts, data: DataFacts, used: set[str]) -> None:
    """All the steps of a cell read the study's data, and its model the counts that the cell says."""
    for key in used:
        spec = content.steps[key].spec
        kind, own = spec["step"], spec.get("data")
        if kind not in ("train", "transform", "predict"):
            continue
        of_test = kind == "predict" and spec.get("split") == "test"
        if not isinstance(own, dict) or own.get("digest" if kind == "predict" else "train") != (
            data.test if of_test else data.train
        ):
            raise BadInput(f"{named(cell)}: the step {key[:12]} read other data than the study's")
        if key == cell.model_key and own.get("counts") != cell.counts:
            raise BadInput(f"{named(cell)}: its model was trained on other counts than the cell's")
    for key in cell.predict_keys:
        facts = content.predictions.get(key)
        if facts is not None and _data_of(content, content.groups[facts.group].dataset).class_names != data.class_names:
            raise BadInput(f"{named(cell)}: its predictions are of other classes than its dataset's")


def _check_agreement(content: Content, cell: CellFacts) -> None:
    """An exported file agrees with its model on as many images as the two predictions say."""
    own, ran = (content.predictions.get(key or "") for key in (cell.predict_key, cell.export_predict_key))
    if cell.file is None or cell.file.agreement is None:
        return
    if own is None or ran is None or own.group != ran.group:
        raise BadInput(f"{named(cell)}: says how far its exported file agrees, without that file's prediction")
    guesses = content.guesses[own.group]
    found = float((guesses[own.row] == guesses[ran.row]).mean())
    if abs(found - cell.file.agreement) > 1e-9:
        raise BadInput(f"{named(cell)}: its exported file agrees on {found:.4%}, not {cell.file.agreement:.4%}")
