"""What ``tailkeep audit`` was asked for: plain values, checked against each other before any file is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailkeep.auditing.policy import Policy, make_policy, read_policy
from tailkeep.errors import BadInput

SCORES = ("auto", "logits", "probabilities")
LAYOUTS = ("auto", "nchw", "nhwc")
WEIGHTS = (".safetensors", ".pt", ".pth")
MODELS = (".onnx", *WEIGHTS)
MOST_RESAMPLES = 10_000_000


@dataclass(frozen=True)
class AuditRequest:
    """One run of ``tailkeep audit``.

    ``baselines`` are the baseline's files, one a seed; ``candidates`` pairs of a name and its files, in the order of
    the baselines. A file is predictions (CSV, Parquet, NPZ) or a model (.onnx, .safetensors), which needs ``data``;
    weights also need ``model_code``. None leaves a choice to the reader (a column's usual name) or to the
    policy: ``max_class_drop``, ``max_false_positive_rise`` (percentage points) and ``confidence`` replace what a policy
    file says.
    ``threshold`` is that of multi-label scores; ``mean``, ``std`` one number a channel, for pixels in 0..1;
    ``image_size`` (height, width); ``split``, ``allow_bad`` (damaged images to skip) and ``threads`` are those of
    models over images. ``candidate_code`` pairs a candidate's name with code of its own.

    Raises BadInput where values do not go together; the text names the option.
    """

    baselines: tuple[Path, ...]
    candidates: tuple[tuple[str, tuple[Path, ...]], ...]
    data: Path | None = None
    model_code: str | None = None
    max_class_drop: float | None = None
    confidence: float | None = None
    policy: Path | None = None
    label_column: str | None = None
    prediction_column: str | None = None
    id_column: str | None = None
    group_columns: tuple[str, ...] = ()
    scores: str = "auto"
    class_names: Path | None = None
    train_counts: Path | None = None
    threshold: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, int] | None = None
    layout: str = "auto"
    resamples: int = 10_000
    seed: int = 0
    candidate_code: tuple[tuple[str, str], ...] = ()
    split: str = "test"
    allow_bad: int = 0
    threads: int = 1
    max_false_positive_rise: float | None = None

    def __post_init__(self) -> None:
        """Check what the values say of each other."""
        self._check_files()
        self._check_images()
        if self.scores not in SCORES:
            raise BadInput(f"--scores {self.scores}: expected one of {', '.join(SCORES)}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise BadInput(f"--threshold {self.threshold}: expected a probability between 0 and 1, such as 0.5")
        if not 1 <= self.resamples <= MOST_RESAMPLES:
            raise BadInput(f"--resamples {self.resamples}: expected 1 to {MOST_RESAMPLES:,}")
        if self.seed < 0:
            raise BadInput(f"--seed {self.seed}: expected 0 or more")
        if len(set(self.group_columns)) < len(self.group_columns):
            raise BadInput("--group: a column stands twice")
        make_policy(**self._given())

    def read_policy(self) -> Policy:
        """Return the policy that the file and the options make together; raises BadInput with file:line."""
        return make_policy(**self._given()) if self.policy is None else read_policy(self.policy, **self._given())

    def inputs(self) -> list[tuple[str, Path]]:
        """Return every file and folder that is read, with the option that names it."""
        codes = (self.model_code, *(code for _, code in self.candidate_code))
        named = [
            ("--data", self.data),
            ("--policy", self.policy),
            ("--class-names", self.class_names),
            ("--train-counts", self.train_counts),
            *(("--model-code", Path(code.rpartition(":")[0])) for code in codes if code),
        ]
        return [
            *(("--baseline", path) for path in self.baselines),
            *(("--candidate", path) for _, files in self.candidates for path in files),
            *((option, path) for option, path in named if path is not None),
        ]

    def code_of(self, path: Path) -> str | None:
        """Return the code that makes the network of a file: its candidate's own, else that of all."""
        own = dict(self.candidate_code)
        for name, files in self.candidates:
            if path in files and name in own:
                return own[name]
        return self.model_code

    def _given(self) -> dict[str, Any]:
        given = {
            "max_class_drop": self.max_class_drop,
            "confidence": self.confidence,
            "max_false_positive_rise": self.max_false_positive_rise,
        }
        return {key: value for key, value in given.items() if value is not None}

    def _check_files(self) -> None:
        if not self.baselines or not self.candidates:
            raise BadInput("an audit needs --baseline FILE and --candidate FILE")
        if len(set(self.baselines)) < len(self.baselines):
            raise BadInput("--baseline: a file stands twice; each one is another seed of the baseline")
        names = [name for name, _ in self.candidates]
        if len(set(names)) < len(names) or not all(names):
            raise BadInput("--candidate: candidates need names of their own: --candidate NAME=FILE")
        for name, files in self.candidates:
            if len(files) != len(self.baselines):
                raise BadInput(
                    f"--candidate {name}: {len(files)} files for {len(self.baselines)} baselines; seeds are compared "
                    f"in pairs, so give --candidate {name}=FILE once for each --baseline, in the same order"
                )
            if len(set(files)) < len(files):
                raise BadInput(f"--candidate {name}: a file stands twice; each one is another seed")
        for option, path in (("--baseline", p) for p in self.baselines):
            self._check_model(option, path)
        for name, files in self.candidates:
            for path in files:
                self._check_model(f"--candidate {name}", path)

    def _check_model(self, option: str, path: Path) -> None:
        suffix = path.suffix.lower()
        if suffix in MODELS and self.data is None:
            raise BadInput(f"{option}: {path} is a model; give the labelled test images with --data PATH")
        if suffix in WEIGHTS and self.code_of(path) is None:
            raise BadInput(f"{option}: {path} holds weights alone; name the code with --model-code MODULE:FACTORY")

    def _check_images(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise BadInput("--mean and --std go together")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std) or not self.mean:
                raise BadInput(f"--mean has {len(self.mean)} numbers and --std {len(self.std)}; one a channel each")
            if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
                raise BadInput("--mean and --std are finite numbers, and --std is above 0")
        if self.image_size is not None and min(self.image_size) < 1:
            raise BadInput(f"--image-size {self.image_size[0]}x{self.image_size[1]}: expected pixels, 1 or more")
        if self.layout not in LAYOUTS:
            raise BadInput(f"--layout {self.layout}: expected one of {', '.join(LAYOUTS)}")
