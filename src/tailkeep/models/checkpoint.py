"""Weights from outside: read without running code, checked, and loaded strictly.

safetensors by default; ``.pt`` and ``.pth`` only through ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tailkeep.errors import BadInput, TailkeepWarning
from tailkeep.models.impostors import refuse_impostors

TORCH_SUFFIXES = (".pt", ".pth")
NESTED = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts store the weights beside an epoch or an optimizer."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""
SHOWN = 8

CONVERSION = """Convert it once, where its code is at hand and you trust the file:
    import torch
    from safetensors.torch import save_file
    model = torch.load({path!r}, weights_only=False)  # this runs code from the file
    save_file({{name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}}, {target!r})"""


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors``, ``.pt`` or ``.pth`` file by name, on the CPU.

    No code from the file runs. Raises ``BadInput`` where the file is missing, empty, truncated, a Git LFS pointer, a
    web page, a pickled model or a TorchScript archive, holds something that is not a tensor, or a NaN or an infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file")
    refuse_impostors(path)
    if path.suffix == ".safetensors":
        state = _load_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        state = _load_torch(path)
    else:
        raise BadInput(f"{path}: weights are read from .safetensors, .pt or .pth files, not {path.suffix or 'others'}")
    if not state:
        raise BadInput(f"{path}: holds no tensors")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise BadInput(
                f"{path}: tensor {name} holds {count} values that are NaN or infinite (did training diverge?)"
            )
    return state


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        if prefix.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
            raise BadInput(f"{path}: is a torch file with a .safetensors name; rename it to .pt")
        length = int.from_bytes(prefix, "little")
        header = file.read(length) if len(prefix) == 8 and length <= size - 8 else b""
    expected = _data_end(header, length)
    if len(prefix) < 8 or (header == b"" and length < 100_000_000) or (expected is not None and size < expected):
        wanted = f" of {expected}" if expected else ""
        raise BadInput(f"{path}: the file is truncated ({size} bytes{wanted}); fetch it again")
    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: not a safetensors file ({error})") from error


def _data_end(header: bytes, length: int) -> int | None:
    """Return the size in bytes that a safetensors header promises, or None where it is not one."""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _load_torch(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about old pickle protocols
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "invalid load key" in str(error) or "ran out of input" in str(error).lower():
            raise BadInput(f"{path}: not a torch file, or a damaged one ({error})") from error
        target = str(path.with_suffix(".safetensors"))
        raise BadInput(
            f"{path}: holds pickled Python objects (a whole model?), which could run any code; it is not opened. "
            + CONVERSION.format(path=str(path), target=target)
        ) from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise BadInput(f"{path}: truncated or damaged, fetch it again ({type(error).__name__}: {error})") from error
    return _tensors_only(path, loaded)


def _check_archive(path: Path) -> None:
    """Look into a torch file's zip before torch does: whole, not TorchScript, not a bomb."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        size = path.stat().st_size
        raise BadInput(
            f"{path}: the file is truncated ({size} bytes, its directory is missing); fetch it again"
        ) from error
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise BadInput(
            f"{path}: is a TorchScript archive, which holds code; save its state_dict() as safetensors instead"
        )
    if sum(member.file_size for member in members) > 2 * path.stat().st_size:
        raise BadInput(
            f"{path}: its compressed members unpack to more than twice its size; torch does not write such files"
        )


def _tensors_only(path: Path, loaded: Any) -> dict[str, Tensor]:
    """Return the state dict inside what a ``.pt`` file held; one level of nesting is followed, with a warning."""
    if isinstance(loaded, Mapping):
        nested = [key for key in NESTED if isinstance(loaded.get(key), Mapping)]
        if nested and not any(isinstance(value, Tensor) for value in loaded.values()):
            others = sorted(str(key) for key in loaded if key != nested[0])
            warnings.warn(f"{path}: taking {nested[0]!r}, ignoring {others}", TailkeepWarning, stacklevel=4)
            loaded = loaded[nested[0]]
    if not isinstance(loaded, Mapping):
        raise BadInput(f"{path}: holds a {type(loaded).__name__}, not a state dict (names to tensors)")
    strange = [f"{name!r} ({type(value).__name__})" for name, value in loaded.items() if not isinstance(value, Tensor)]
    if strange:
        raise BadInput(f"{path}: a state dict holds tensors alone; this one also has {_some(strange)}")
    return {str(name): value.detach() for name, value in loaded.items()}


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Load ``state`` into ``model`` strictly and return notes on what was done to the names or types.

    A prefix that wrappers put before *every* name ("module.", "_orig_mod.") is dropped, with a note. Raises
    ``BadInput`` that lists missing and unexpected names and wrong shapes; nothing is loaded then. ``source`` names the
    weights in the texts.
    """
    notes: list[str] = []
    own = model.state_dict()
    given = dict(state)
    for prefix in WRAPPERS:
        if given and all(name.startswith(prefix) for name in given) and not any(n.startswith(prefix) for n in own):
            given = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
            notes.append(f"{source}: dropped the prefix {prefix!r} of every name")
    problems = _mismatches(own, given)
    if problems:
        raise BadInput(f"{source}: the weights do not fit the model:\n  " + "\n  ".join(problems))
    cast = sorted({f"{given[name].dtype} to {own[name].dtype}" for name in own if given[name].dtype != own[name].dtype})
    notes += [f"{source}: converted {kinds}" for kinds in cast]
    model.load_state_dict(given, strict=True)
    return notes


def _mismatches(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    problems: list[str] = []
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    if missing:
        problems.append(f"missing ({len(missing)}): {_some(missing)}")
    if unexpected:
        problems.append(f"unexpected ({len(unexpected)}): {_some(unexpected)}")
    prefixed = [name for name in unexpected if name.startswith(WRAPPERS)]
    if prefixed and len(prefixed) < len(given):
        problems.append(
            f"{len(prefixed)} of {len(given)} names have a wrapper's prefix; it is dropped only if all have"
        )
    wrong = [name for name in own if name in given and own[name].shape != given[name].shape]
    shapes = [f"{name} is {tuple(given[name].shape)}, the model's {tuple(own[name].shape)}" for name in wrong]
    if wrong:
        problems.append(f"wrong shapes ({len(wrong)}): {_some(shapes, '; ')}")
    head = next((name for name in reversed(list(own)) if own[name].ndim == 2), None)
    if head in wrong and own[head].shape[1:] == given[head].shape[1:]:
        problems.append(f"the head {head} is for {len(given[head])} classes, and the data has {len(own[head])}")
    return problems


def _some(texts: list[str], separator: str = ", ") -> str:
    """Join the first texts, and say how many more there are."""
    rest = f"{separator}and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return separator.join(texts[:SHOWN]) + rest
