"""The held-out split: opened once the order is written, and predicted for one candidate at a time."""

from __future__ import annotations

from tailkeep.analysis.gate import Check
from tailkeep.errors import StepFailed
from tailkeep.recommend.batches import Batch, Runner
from tailkeep.recommend.search import Searched
from tailkeep.recommend.setup import Setup


class HeldOut:
    """Counts on the test images, of the candidates that are asked for and no other."""

    def __init__(self, setup: Setup, searched: Searched, runner: Runner) -> None:
        self.setup, self.searched, self.runner = setup, searched, runner
        self.batches: dict[float, Batch] = {}

    def batch(self, share: float) -> Batch:
        """Return the candidates that had ``share`` of their fine-tuning, on the test split; none is predicted yet."""
        if share not in self.batches:
            found = self.searched.found.values()
            same = [each.candidate for each in found if each.share == share and each.forecast is not None]
            self.batches[share] = Batch(self.setup, same, share, "test")
        return self.batches[share]

    def checks(self, name: str) -> list[Check]:
        """Predict the test images by a candidate as it was trained, and return one check a class.

        Raises ``StepFailed`` where the prediction cannot be made.
        """
        batch = self.batch(self.searched.found[name].share)
        failed = batch.run(self.runner, [name])
        if failed:
            raise StepFailed("held_out", "; ".join(f"{each or 'baseline'}: {why}" for each, why in failed.items()))
        counts = batch.counts(name)
        limit = self.setup.request.limit
        rows = zip(self.setup.class_names, counts.n, counts.n10, counts.n01, strict=True)
        return [Check("drop", "class", class_name, n, n10, n01, limit) for class_name, n, n10, n01 in rows]
