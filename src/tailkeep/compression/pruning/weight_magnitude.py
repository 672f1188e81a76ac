"""Weight pruning: single weights are set to zero and stay there, freely or N of every M in a row.

Han et al. 2015, "Learning both Weights and Connections"; N:M as in Mishra et al. 2021, "Accelerating Sparse Deep Neural
Networks". The tensors stay dense: only a runtime that knows sparse weights makes the model smaller or faster.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import Change, Context
from tailkeep.compression.pruning.counting import counted_layers
from tailkeep.compression.pruning.removal import example_input, plain_layer
from tailkeep.compression.pruning.schedule import ROUNDING, PacedMethod
from tailkeep.compression.pruning.selection import removed_count
from tailkeep.compression.quantization.structure import compressible_layers
from tailkeep.errors import StepFailed
from tailkeep.randomness import stream_seed

KEEP = "pruning_keep_weights"
"""The buffer of a pruned layer that says which weights are left: bool, in the weight's shape."""
FLOAT_BYTES = 4


def grouped(weight: Tensor, size: int, along: str) -> Tensor:
    """Return a weight (C_out, C_in, ...) as rows (groups, ``size``) of what an N:M pattern counts together.

    "channels": consecutive input channels of one output channel at one place of the kernel, as TensorRT and the sparse
    tensor cores want it; "row": consecutive weights of the flattened row C_in * kh * kw. The same for linear layers and
    1x1 kernels. The length must be a multiple of ``size``.
    """
    ordered = weight.movedim(1, -1) if along == "channels" else weight
    return ordered.reshape(-1, size)


def ungrouped(rows: Tensor, like: Tensor, along: str) -> Tensor:
    """Return ``grouped`` rows in the shape of the weight ``like``."""
    if along == "row":
        return rows.reshape(like.shape)
    return rows.reshape(like.movedim(1, -1).shape).movedim(-1, 1)


class WeightPruning(PacedMethod):
    """Set the weights of least magnitude to zero and keep them there through the training.

    ``ratio``: the share of the pruned layers' weights that goes; ``scope``: of each layer, or of all together
    (magnitudes are compared as they are). ``pattern`` "N:M" instead leaves at most N of every M weights in a group,
    ``along`` the input channels or the flattened row. ``criterion`` "random" is the control. ``keep_first_last`` leaves
    the first convolution and the last linear layer dense.
    """

    kind: Literal["weight_pruning"] = "weight_pruning"
    ratio: float = Field(0.5, ge=0, lt=1)
    pattern: str = Field("unstructured", pattern=r"^(unstructured|[1-9]\d{0,2}:[1-9]\d{0,2})$")
    along: Literal["channels", "row"] = "channels"
    scope: Literal["layer", "global"] = "layer"
    criterion: Literal["magnitude", "random"] = "magnitude"
    keep_first_last: bool = True

    @field_validator("pattern", mode="before")
    @classmethod
    def _pattern_in_quotes(cls, pattern: object) -> object:
        if isinstance(pattern, int):
            raise ValueError('write the pattern in quotes, "2:4": without them YAML reads a number in base 60')
        return pattern

    @model_validator(mode="after")
    def _pattern_stands_alone(self) -> WeightPruning:
        if self.pattern == "unstructured":
            if self.along != "channels":
                raise ValueError("along belongs to a pattern such as 2:4")
            return self
        keep, size = self.kept_of()
        if keep >= size:
            raise ValueError(f"pattern {self.pattern}: N:M keeps N of every M weights, so N is below M, as in 2:4")
        if self.ratio != 0.5 or self.scope != "layer":
            raise ValueError(f"pattern {self.pattern} is its own ratio, the same everywhere; leave ratio and scope out")
        return self

    def kept_of(self) -> tuple[int, int]:
        """Return (N, M) of an N:M pattern; (0, 0) of none."""
        if self.pattern == "unstructured":
            return 0, 0
        keep, size = map(int, self.pattern.split(":"))
        return keep, size

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Give the layers their masks; one-shot pruning zeroes the weights here.

        Raises ``StepFailed`` with reason ``pruning`` where the model is quantized, no layer is left to prune, or a
        global ranking would empty one.
        """
        names, _ = self._layers(model, context)
        for name in names:
            layer = plain_layer(model, name)
            layer.register_buffer(KEEP, torch.ones_like(layer.weight, dtype=torch.bool, requires_grad=False))
        if self.when == "one_shot":
            self._advance(model, 0.0, context)
        return model

    def _layers(self, model: nn.Module, context: Context) -> tuple[list[str], list[str]]:
        """The layers to prune in call order, and those whose width is no multiple of M."""
        if any(hasattr(module, "weight_bits") for module in model.modules()):
            raise StepFailed("pruning", "the model is quantized; prune before quantizing")
        order = compressible_layers(model, example_input(model, context.image_shape), self.keep_first_last)
        _, size = self.kept_of()
        unfit = [name for name in order if size and self._row(plain_layer(model, name).weight) % size]
        names = [name for name in order if name not in unfit]
        if not names:
            words = f" whose input is a multiple of {size}" if unfit else ""
            raise StepFailed("pruning", f"the model has no convolution or linear layer{words} left to prune")
        return names, unfit

    def _row(self, weight: Tensor) -> int:
        return weight.shape[1] if self.along == "channels" else weight[0].numel()

    def on_step(self, model: nn.Module, progress: float, context: Context) -> None:
        """Mask the weights that are due by now, and set all that are masked to zero again.

        A function of progress and of the model's tensors and buffers alone; what is masked stays masked.
        """
        self._advance(model, progress, context)

    @torch.no_grad()
    def _advance(self, model: nn.Module, progress: float, context: Context) -> None:
        layers = {name: module for name, module in model.named_modules() if KEEP in module._buffers}
        keeps = {name: module.get_buffer(KEEP) for name, module in layers.items()}
        gone = torch.stack([(~keep).sum() for keep in keeps.values()]).tolist()  # waits for the device once
        due = self._due({name: keep.numel() for name, keep in keeps.items()}, self.share(progress))
        if self.scope == "global":
            behind = sum(gone) < sum(due.values())
        else:
            behind = any(have < want for have, want in zip(gone, due.values(), strict=True))
        if behind:
            scores = {name: self._scores(name, plain_layer(model, name).weight, keeps[name], context) for name in keeps}
            for name, keep in self._choose(scores, due).items():
                keeps[name].copy_(keep)
        for name, keep in keeps.items():
            plain_layer(model, name).weight.masked_fill_(~keep, 0)

    def _due(self, sizes: dict[str, int], share: float) -> dict[str, int]:
        """How many weights of each layer are to be gone; of a global ranking only the sum counts."""
        keep, size = self.kept_of()
        if size:
            zeros = math.floor(share * (size - keep) + ROUNDING)
            return {name: number // size * zeros for name, number in sizes.items()}
        if self.scope == "global":
            return {"all": removed_count(self.ratio * share, sum(sizes.values()))}
        return {name: removed_count(self.ratio * share, number) for name, number in sizes.items()}

    def _scores(self, name: str, weight: Tensor, keep: Tensor, context: Context) -> Tensor:
        """Worth of every weight, in its shape; what is masked already has less than any other."""
        if self.criterion == "random":
            generator = torch.Generator().manual_seed(stream_seed(context.seed, self.kind, name))
            scores = torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
        else:
            scores = weight.abs()
        return scores.masked_fill(~keep, -1)

    def _choose(self, scores: dict[str, Tensor], due: dict[str, int]) -> dict[str, Tensor]:
        """What is left of every layer, bool in the weight's shape; of equal weights the first go first."""
        _, size = self.kept_of()
        if size:
            chosen = {}
            for name, values in scores.items():
                rows = grouped(values, size, self.along)
                kept = _all_but_lowest(rows, due[name] * size // values.numel())
                chosen[name] = ungrouped(kept, values, self.along)
            return chosen
        if self.scope == "layer":
            return {
                name: _all_but_lowest(values.reshape(1, -1), due[name]).reshape(values.shape)
                for name, values in scores.items()
            }
        together = torch.cat([values.reshape(-1) for values in scores.values()])
        sizes = [values.numel() for values in scores.values()]
        parts = torch.split(_all_but_lowest(together[None], due["all"])[0], sizes)
        chosen = {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
        for name, part in chosen.items():
            if not bool(part.any()):
                raise StepFailed("pruning", f"a global ranking leaves no weight of {name}; take scope: layer")
        return chosen

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Set what is masked (all that is still due included) to zero for good, and write down how sparse that is.

        The shape does not change. ``bitmask_bytes``: one bit a weight of the pruned layers and 4 bytes for each that is
        not zero, the other layers dense; ``pattern_bytes``: N of M values and their places in the group.
        """
        self._advance(model, 1.0, context)
        layers = {}
        for name, module in model.named_modules():
            if module._buffers.pop(KEEP, None) is not None:
                weight = plain_layer(model, name).weight
                nonzero = int((weight != 0).sum())
                sparsity = 1 - nonzero / weight.numel()
                layers[name] = {"weights": weight.numel(), "nonzero": nonzero, "sparsity": sparsity}
        context.facts |= self._sizes(model, layers)
        _, unfit = self._layers(model, context)
        if unfit:
            context.facts["layers_that_do_not_fit"] = unfit
        return model, None

    def _sizes(self, model: nn.Module, layers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        weights = sum(weight.numel() for _, _, weight in counted_layers(model))
        nonzero = sum(int((weight != 0).sum()) for _, _, weight in counted_layers(model))
        pruned = sum(layer["weights"] for layer in layers.values())
        left = sum(layer["nonzero"] for layer in layers.values())
        dense = FLOAT_BYTES * (weights - pruned)
        facts = {
            "weights": weights,
            "nonzero_weights": nonzero,
            "model_sparsity": 1 - nonzero / weights,
            "achieved_sparsity": 1 - left / pruned,
            "dense_bytes": FLOAT_BYTES * weights,
            "bitmask_bytes": dense + FLOAT_BYTES * left + sum(-(-layer["weights"] // 8) for layer in layers.values()),
            "layers": layers,
        }
        keep, size = self.kept_of()
        if size:
            places = math.ceil(math.log2(size))
            values = [layer["weights"] // size * keep for layer in layers.values()]
            facts["pattern_bytes"] = dense + sum(FLOAT_BYTES * n + -(-n * places // 8) for n in values)
        return facts


def _all_but_lowest(rows: Tensor, count: int) -> Tensor:
    """Return bool rows (R, N), false at the ``count`` smallest of each row, the first of equals first."""
    kept = torch.ones_like(rows, dtype=torch.bool)
    order = torch.argsort(rows, dim=1, stable=True)[:, :count]
    return kept.scatter_(1, order, False)
