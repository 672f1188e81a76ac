"""What the repairs of a classifier share: how they find it, and how they train it alone."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from tailkeep.classifier import find_classifier
from tailkeep.compression.base import Change, Context, Method
from tailkeep.errors import StepFailed


def float_classifier(model: nn.Module, name: str) -> nn.Linear:
    """Return the linear layer ``name``. Raises ``StepFailed`` with reason ``classifier`` where it is quantized."""
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise StepFailed("classifier", f"{name} is quantized; repair the classifier first, and quantize then")
    return layer


class Folded(Method):
    """Base of the repairs without training: ``tau`` is how much of the frequent classes' advantage is folded away."""

    tau: float = Field(1.0, ge=0)

    @property
    def answers_imbalance(self) -> bool:
        """A strength of 0 leaves the classifier as it is."""
        return self.tau > 0

    @property
    def compresses(self) -> bool:
        """The classifier keeps its size."""
        return False

    @property
    def trains(self) -> bool:
        """No gradient is taken."""
        return False


class ClassifierOnly(Method):
    """Base of the repairs that train nothing but the classifier, on features that stay as they are.

    The body runs in evaluation mode: its batch norms keep their statistics, its dropout is off (Kang et al. 2020).
    """

    @property
    def compresses(self) -> bool:
        """The classifier keeps its size."""
        return False

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Freeze all but what ``free`` leaves to train."""
        name = find_classifier(model, context.image_shape)
        layer = float_classifier(model, name)
        context.facts["classifier"] = name
        model.requires_grad_(False)
        self.free(model, name, layer, context)
        return model

    def free(self, model: nn.Module, name: str, layer: nn.Linear, context: Context) -> None:
        """Change the classifier ``layer`` of that ``name`` in place, and let train what is to train."""
        raise NotImplementedError

    def on_step(self, model: nn.Module, progress: float, context: Context) -> None:
        """Keep the body in evaluation mode."""
        model.eval()

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Let all weights train again, in whatever comes next; the shape is the parent's."""
        return model.requires_grad_(True), None
