"""Reads a study file: safe YAML without duplicate keys or aliases, and the line that each value stands on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tailkeep.errors import BadInput

MAX_BYTES = 1_000_000
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A parsed file: plain ``value``, and for each path into it the line (from 1) and the text as written."""

    source: str
    value: dict[str, Any]
    lines: dict[Path_, int]
    texts: dict[Path_, str]

    def where(self, path: Path_) -> str:
        """Return "file:line" of a path, or of its nearest ancestor that the file has."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.source}:{self.lines.get(path, 1)}"


def read_yaml(path: Path) -> Document:
    """Read a study file; raises BadInput naming file and line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: there is no such file") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise BadInput(f"{path}: {len(data):,} bytes; a study file has at most {MAX_BYTES:,}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start})") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str = "study") -> Document:
    """Parse YAML text by PyYAML's safe rules, less aliases and duplicate keys."""
    loader = yaml.SafeLoader(text)
    try:
        _refuse_aliases(text, source)
        node = loader.get_single_node()
        lines: dict[Path_, int] = {}
        texts: dict[Path_, str] = {}
        value = None if node is None else _build(loader, node, (), lines, texts, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise BadInput(f"{source}:{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{source}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise BadInput(f"{source}: nested too deeply") from error
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise BadInput(f"{source}:1: a study file is a mapping (name: ..., data: ..., ...), not {type(value).__name__}")
    return Document(source, value, lines, texts)


def _refuse_aliases(text: str, source: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise BadInput(
                f"{source}:{line}: anchors and aliases (& and *) are not allowed in a study file; write the value out"
            )


def _build(
    loader: yaml.SafeLoader, node: yaml.Node, path: Path_, lines: dict[Path_, int], texts: dict[Path_, str], source: str
) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise BadInput(f"{source}:{line}: a key must be plain text")
            if key_node.tag != "tag:yaml.org,2002:str":
                raise BadInput(f'{source}:{line}: YAML does not read {key} as text here; put it in quotes: "{key}"')
            if key in result:
                raise BadInput(f"{source}:{line}: the key {key!r} stands twice (first on line {lines[(*path, key)]})")
            result[key] = _build(loader, value_node, (*path, key), lines, texts, source)
            lines[(*path, key)] = line
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), lines, texts, source) for i, item in enumerate(node.value)]
    texts[path] = node.value
    return loader.construct_object(node)
