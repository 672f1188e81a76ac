"""A resumable point inside a training: model, momentum and step in one safetensors file, written atomically.

Batches, augmentation and learning rate are functions of the step, so nothing else is needed for a resumed run to end
with the same bits as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tailkeep.files import write_atomic


@dataclass
class Checkpoint:
    """Where and how often (seconds) to save. ``identity`` ties the file to one step of one study."""

    path: Path
    identity: str
    every: float = 30.0
    _last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether ``every`` seconds have passed since the last save."""
        return time.monotonic() - self._last >= self.every

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, log: list[dict[str, Any]]) -> None:
        """Write the state after ``step`` steps."""
        tensors = {f"model/{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        for index, parameter in enumerate(_parameters(optimizer)):
            momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{index}"] = momentum.detach().cpu().contiguous()
        data = save(_unshared(tensors), {"identity": self.identity, "step": str(step), "log": json.dumps(log)})
        write_atomic(self.path, data + hashlib.sha256(data).digest())
        self._last = time.monotonic()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
        """Load the state if there is a whole one of this step; return (steps done, log), (0, []) otherwise."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return 0, []
        body, digest = data[:-32], data[-32:]
        if hashlib.sha256(body).digest() != digest:
            return 0, []
        plain = self.path.with_suffix(".reading")
        plain.write_bytes(body)
        try:
            with safe_open(plain, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError:
            return 0, []
        finally:
            plain.unlink()
        if facts.get("identity") != self.identity:
            return 0, []
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")}, strict=True)
        for index, parameter in enumerate(_parameters(optimizer)):
            if (momentum := tensors.get(f"momentum/{index}")) is not None:
                buffer = torch.empty_like(parameter, memory_format=torch.preserve_format)
                optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(momentum)
        return int(facts["step"]), json.loads(facts["log"])


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses two names for one storage (tied weights); give each its own copy."""
    seen: set[int] = set()
    for name, value in tensors.items():
        if value.data_ptr() in seen:
            tensors[name] = value.clone()
        seen.add(value.data_ptr())
    return tensors
