"""A model of the user's own: found by ``module:factory`` or ``path/to/file.py:factory``, built and probed.

The code is named on the command line alone and is trusted; a spec never holds an import path.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import nn

from tailkeep.errors import BadInput
from tailkeep.models.probe import probe
from tailkeep.spec import Spec

INSTALLED = ("site-packages", "dist-packages")

__all__ = ["ModelCode", "UserModel", "build_user", "load_factory", "probe"]


class UserModel(Spec):
    """The model that ``--model-code`` names; ``name`` is its label in tables."""

    kind: Literal["user"] = "user"
    name: str = "user"

    @property
    def label(self) -> str:
        """Name for tables."""
        return self.name


@dataclass(frozen=True)
class ModelCode:
    """A user's model code: the factory, the SHA-256 of its sources (64 hex digits) and its name as it was given.

    The sources are the factory's file and the files beside or below it that it imports, directly or through others.
    """

    factory: Callable[..., Any]
    source_hash: str
    name: str

    def raised(self, error: BaseException) -> bool:
        """Whether a line of the user's sources stands in the error's traceback."""
        module = sys.modules.get(getattr(self.factory, "__module__", ""))
        folder = Path(getattr(module, "__file__", None) or __file__).resolve().parent
        files = [Path(frame.filename).resolve() for frame in traceback.extract_tb(error.__traceback__)]
        return any(folder in file.parents and not set(INSTALLED) & set(file.parts) for file in files)


def load_factory(text: str) -> ModelCode:
    """Import ``module:factory`` or ``path/to/file.py:factory`` (this runs the user's code).

    Raises ``BadInput`` where the text has no factory, the file or module is missing or fails to import, or it has no
    such callable.
    """
    where, _, attribute = text.rpartition(":")
    if not where or not attribute.isidentifier():
        raise BadInput(f"--model-code {text!r}: write module:factory or path/to/file.py:factory")
    module = _import_file(Path(where), text) if where.endswith(".py") else _import_module(where, text)
    factory = getattr(module, attribute, None)
    if factory is None:
        close = difflib.get_close_matches(attribute, [name for name in vars(module) if not name.startswith("_")], 1)
        hint = f"; did you mean {where}:{close[0]}?" if close else ""
        raise BadInput(f"--model-code {text!r}: {where} has no {attribute}{hint}")
    if not callable(factory):
        raise BadInput(f"--model-code {text!r}: {attribute} is a {type(factory).__name__}, not a function or a class")
    return ModelCode(factory, source_hash(module), text)


def _import_file(path: Path, text: str) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"--model-code {text!r}: there is no file {path}")
    resolved = path.resolve()
    name = f"tailkeep_user_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise BadInput(f"--model-code {text!r}: {path} is not Python source")
    _add_to_path(resolved.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"--model-code {text!r}: {path} fails to import: {_where(error)}") from error
    return module


def _import_module(name: str, text: str) -> ModuleType:
    _add_to_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise BadInput(
                f"--model-code {text!r}: no module {error.name} here; run from its folder, or name the file"
            ) from error
        raise BadInput(f"--model-code {text!r}: {name} fails to import: {_where(error)}") from error
    except Exception as error:
        raise BadInput(f"--model-code {text!r}: {name} fails to import: {_where(error)}") from error


def _add_to_path(folder: Path) -> None:
    """Let the user's file import its neighbours; last, so that none of them hides an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _where(error: BaseException) -> str:
    """Return the error's text with the file and line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    line = f"{place[0].filename}:{place[0].lineno}: " if place else ""
    return f"{line}{type(error).__name__}: {error}"


def source_hash(module: ModuleType) -> str:
    """Return the SHA-256 of a module's source and of the local sources that it imports, with their relative paths.

    Raises ``BadInput`` where the module has no Python source.
    """
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise BadInput(f"model code {module.__name__} has no Python source, so its content cannot enter a step's key")
    path = Path(file).resolve()
    package = (module.__package__ or "").split(".")[0]
    root = path.parent
    while package and root.name != package and root != root.parent:
        root = root.parent
    root = root.parent if package and root.name == package else path.parent
    inside = root / (package or path.name) if root.name in INSTALLED else root
    digest = hashlib.sha256()
    for source in sorted(_local_sources(path, root, inside)):
        relative = "main" if source == path and not package else source.relative_to(root).as_posix()
        digest.update(f"{relative}\0{hashlib.sha256(source.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


def _local_sources(start: Path, root: Path, inside: Path) -> set[Path]:
    """Return ``start`` and the files in ``inside`` that it imports, through any number of steps.

    Absolute names are looked for in ``root``, and beside the file that imports them.
    """
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for folder, name in _imports(path, root):
            steps = [part for part in name.split(".") if part]
            for depth in range(len(steps) + 1):
                below = folder.joinpath(*steps[:depth])
                candidates = [below.with_suffix(".py")] if depth else []
                for candidate in (*candidates, below / "__init__.py"):
                    if candidate.is_file() and inside in candidate.resolve().parents:
                        waiting.append(candidate.resolve())
    return found


def _imports(path: Path, root: Path) -> list[tuple[Path, str]]:
    """Return (folder to look in, dotted name) of every import in a file; names that may be attributes included."""
    wanted: list[tuple[Path, str]] = []
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # found by its name alone: Python has not imported it
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [(folder, alias.name) for alias in node.names for folder in (root, path.parent)]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            folders = (root, path.parent) if node.level == 0 else (path.parents[node.level - 1],)
            wanted += [(folder, f"{base}.{alias.name}") for alias in node.names for folder in folders]
    return wanted


def build_user(code: ModelCode, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Call the factory with those of ``num_classes``, ``image_shape`` (C, H, W) and ``in_channels`` that it takes.

    A factory that takes ``**kwargs`` without naming the number of classes gets ``num_classes``. Raises ``BadInput``
    where it needs another argument, fails, or returns something that is not a ``torch.nn.Module``.
    """
    offered = {"num_classes": num_classes, "image_shape": image_shape, "in_channels": image_shape[0]}
    try:
        parameters = inspect.signature(code.factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise BadInput(f"--model-code {code.name!r}: the factory's arguments cannot be read ({error})") from error
    keywords = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        keywords.add("num_classes")
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in offered or p.kind is p.POSITIONAL_ONLY)
    ]
    if needed:
        raise BadInput(
            f"--model-code {code.name!r}: the factory needs {', '.join(needed)}; it is offered num_classes, "
            "image_shape=(channels, height, width) and in_channels by keyword, so give the others defaults"
        )
    try:
        model = code.factory(**{name: value for name, value in offered.items() if name in keywords})
    except Exception as error:
        raise BadInput(f"--model-code {code.name!r}: the factory fails: {_where(error)}") from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise BadInput(f"--model-code {code.name!r}: the factory returned a {kind}, not a torch.nn.Module")
    return model
