"""What the checks of the catalog share: examples of every kind, and what a model is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
COUNTS = (60, 46, 36, 28, 21, 17, 13, 10, 8, 6)
REQUIRED: dict[str, Any] = {"ratio": 10.0, "counts": list(COUNTS), "path": "images.npz"}


def each(kinds: tuple[type, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cls", kinds, ids=lambda cls: cls.__name__)


def example(cls: Any, **settings: Any) -> Any:
    """A value of a kind: its defaults, and an example of what has none."""
    needed = {field.alias or name for name, field in cls.model_fields.items() if field.is_required()}
    unknown = needed - REQUIRED.keys() - settings.keys()
    assert not unknown, f"{cls.__name__} needs {unknown}; add an example to REQUIRED"
    return cls(**{name: REQUIRED[name] for name in needed}, **settings)


def kind_of(cls: Any) -> str:
    return str(cls.model_fields["kind"].default)


def state(model: nn.Module) -> dict[str, bytes]:
    return {name: value.detach().contiguous().numpy().tobytes() for name, value in model.state_dict().items()}
