"""The inner maps of a network: where to look, how to read them, how to compare two of different sizes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.errors import StepFailed


@contextmanager
def outputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, object]]:
    """Within the block every forward pass of ``model`` leaves the outputs of the named modules in the yielded dict.

    The hooks live no longer than the block, whatever happens in it. A module that is called several times leaves its
    last output; the dict's order is that in which the modules last finished.
    """
    found: dict[str, object] = {}

    def keep(name: str, output: object) -> None:
        found.pop(name, None)
        found[name] = output

    handles = []
    try:
        for name in names:
            hook = lambda _m, _i, output, name=name: keep(name, output)  # noqa: E731
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def map_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    """Return {module: (C, H, W)} of every module that gives maps (N, C, H, W), in the order in which they finish.

    One pass of zero images (2, *image_shape) in evaluation mode; the model and its training flags stay as they are.
    """
    names = [name for name, _ in model.named_modules() if name]
    flags = [(module, module.training) for module in model.modules()]
    first = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), torch.zeros(()))
    try:
        model.eval()
        with torch.no_grad(), outputs_of(model, names) as outputs:
            model(torch.zeros(2, *image_shape, dtype=first.dtype, device=first.device))
    finally:
        for module, training in flags:
            module.training = training
    maps = {name: tuple(value.shape[1:]) for name, value in outputs.items() if isinstance(value, Tensor)}
    return {name: (shape[0], shape[1], shape[2]) for name, shape in maps.items() if len(shape) == 3}


def stages(model: nn.Module, shapes: dict[str, tuple[int, int, int]]) -> list[str]:
    """Return the last module at each spatial size above 1x1, in the order of the forward pass.

    In a ResNet these are the outputs of its layers. A module inside of a block that changes the size counts only where
    its size has no other: it would be a map that the block makes for itself (a pre-activation, an expansion).
    """
    last: dict[tuple[int, int], tuple[bool, str]] = {}
    for name, (_, height, width) in shapes.items():
        if height * width == 1:
            continue
        own = not any(_changes(model, above, shapes, (height, width)) for above in _ancestors(name))
        previous = last.get((height, width))
        if previous is None or own or not previous[0]:
            last.pop((height, width), None)
            last[height, width] = (own, name)
    return [name for _, name in last.values()]


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _changes(model: nn.Module, name: str, shapes: dict[str, tuple[int, int, int]], size: tuple[int, int]) -> bool:
    """Whether a module is a block (more than a sequence) with maps of another size as its output."""
    is_block = not isinstance(model.get_submodule(name), nn.Sequential)
    return is_block and name in shapes and shapes[name][1:] != size


def pair_layers(
    student: nn.Module, teacher: nn.Module, image_shape: tuple[int, int, int], layers: Sequence[str] | None
) -> list[tuple[str, str, int, int]]:
    """Return (student's module, teacher's module, student's channels, teacher's channels) of each pair.

    ``layers`` holds names ("layer2") or pairs ("layer2:body.2"); None pairs the ``stages`` of equal spatial size, and
    the last of each where no size is shared. Raises ``StepFailed`` where a name is no module or its output no map.
    """
    ours, theirs = map_shapes(student, image_shape), map_shapes(teacher, image_shape)
    if layers is None:
        pairs = _by_size(stages(student, ours), stages(teacher, theirs), ours, theirs)
    else:
        pairs = [(name.partition(":")[0], name.rpartition(":")[2]) for name in layers]
    for pair in pairs:
        for who, name, model, shapes in (("student", pair[0], student, ours), ("teacher", pair[1], teacher, theirs)):
            _check(who, name, model, shapes)
    return [(mine, other, ours[mine][0], theirs[other][0]) for mine, other in pairs]


def _by_size(
    mine: list[str], others: list[str], ours: dict[str, tuple[int, int, int]], theirs: dict[str, tuple[int, int, int]]
) -> list[tuple[str, str]]:
    if not mine or not others:
        who = "teacher" if mine else "student"
        raise StepFailed("layers", f"the {who} has no maps (N, C, H, W) above 1x1; use distillation of logits")
    at = {theirs[name][1:]: name for name in others}
    return [(name, at[ours[name][1:]]) for name in mine if ours[name][1:] in at] or [(mine[-1], others[-1])]


def _check(who: str, name: str, model: nn.Module, shapes: dict[str, tuple[int, int, int]]) -> None:
    if name in shapes:
        return
    if name in dict(model.named_modules()):
        raise StepFailed("layers", f"{name!r} of the {who} gives no maps (N, C, H, W) that could be compared")
    close = difflib.get_close_matches(name, list(shapes), 1, 0.6)
    hint = f"; did you mean {close[0]!r}?" if close else f" (it has {', '.join(stages(model, shapes))})"
    raise StepFailed("layers", f"the {who} has no module {name!r}{hint}")


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps (N, C, H, W) at the smaller height and the smaller width of the two, by adaptive pooling."""
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def attention(maps: Tensor) -> Tensor:
    """Return the attention (N, H * W) of maps (N, C, H, W): mean square over the channels, to length 1 an image."""
    return F.normalize(maps.square().mean(1).flatten(1))


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over images and positions of the squared difference of the attentions: scalar.

    The maps (N, C, H, W) may differ in channels, not in size (Zagoruyko and Komodakis 2017, as their code has it).
    """
    return (attention(student) - attention(teacher)).square().mean()
