"""Reads YAML that people write: safe, without duplicate keys or aliases, and with the line of each value.

A study file and a policy file are read here; their faults are told the same way: file:line, the value, the choices.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from tailkeep.errors import BadInput

MAX_BYTES = 1_000_000
STUDY = "a study file", "a mapping (name: ..., data: ..., ...)"
"""What a file is called in an error, and the form that it must have."""
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


def read_yaml(path: Path, kind: tuple[str, str] = STUDY) -> Document:
    """Read a file; raises BadInput naming file and line. ``kind`` is what errors call it, and its form."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: there is no such file") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise BadInput(f"{path}: {len(data):,} bytes; {kind[0]} has at most {MAX_BYTES:,}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start})") from error
    return parse_yaml(text, str(path), kind)


def parse_yaml(text: str, source: str = "study", kind: tuple[str, str] = STUDY) -> Document:
    """Parse YAML text by PyYAML's safe rules, less aliases and duplicate keys."""
    loader = yaml.SafeLoader(text)
    try:
        _refuse_aliases(text, source, kind[0])
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
        raise BadInput(f"{source}:1: {kind[0]} is {kind[1]}, not {type(value).__name__}")
    return Document(source, value, lines, texts)


def _refuse_aliases(text: str, source: str, what: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise BadInput(
                f"{source}:{line}: anchors and aliases (& and *) are not allowed in {what}; write the value out"
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


def explain(document: Document, detail: ErrorDetails, known_keys: Callable[[Path_], Sequence[str]]) -> str:
    """Return one fault that pydantic found as file:line: path: cause, with a fix.

    ``known_keys`` gives the keys that are known beside the unknown one at a path.
    """
    path = _real_path(document, detail["loc"])
    place = ".".join(str(part) for part in path)
    start = f"{document.where(path)}: {place + ': ' if place else ''}"
    given = detail.get("input")
    kind = detail["type"]
    context = detail.get("ctx") or {}
    if kind == "extra_forbidden":
        return f"{start}unknown key{hint(str(path[-1]), known_keys(path))}"
    if kind == "union_tag_invalid":
        choices = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
        return f"{start}unknown kind {context.get('tag')!r}{hint(str(context.get('tag')), choices)}"
    if kind == "union_tag_not_found":
        return f"{start}'kind' is missing"
    if kind == "string_type" and isinstance(given, (bool, int, float)):
        text = document.texts.get(path, str(given))
        return f'{start}YAML reads {text} as {given!r}, not as text; put it in quotes: "{text}"'
    if kind in ("model_attributes_type", "model_type", "dict_type") and isinstance(given, str):
        return f"{start}expected settings, such as {{kind: {given}}}, not the word {given!r}"
    if kind in ("tuple_type", "list_type"):
        return f"{start}expected a list, such as [{given}] (given: {given!r})"
    if kind == "missing":
        return f"{start}is missing"
    message = detail["msg"].removeprefix("Value error, ")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) or given is None else ""
    return f"{start}{message}{shown}"


def _real_path(document: Document, loc: Path_) -> Path_:
    """Drop from a location the union tags, which the file does not have, and the index of a lone entry."""
    path: list[str | int] = []
    here: Any = document.value
    for position, part in enumerate(loc):
        if _holds(here, part):
            here = here[part]
        elif not (position == len(loc) - 1 and isinstance(part, str) and isinstance(here, dict)):
            continue  # (a missing key belongs to the path though the file lacks it)
        path.append(part)
    return tuple(path)


def _holds(value: Any, part: str | int) -> bool:
    return (isinstance(value, dict) and part in value) or (
        isinstance(value, list) and isinstance(part, int) and part < len(value)
    )


def hint(word: str, choices: Sequence[str]) -> str:
    """Say what was probably meant, and the choices."""
    close = difflib.get_close_matches(word, choices, 1, 0.6)
    mean = f"; did you mean {close[0]!r}?" if close else ""
    return f"{mean} (choices: {', '.join(choices)})" if choices else mean
