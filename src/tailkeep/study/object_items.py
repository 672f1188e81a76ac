"""What a garbage collection may remove on an object store: steps, damaged ones, and files that no manifest names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tailkeep.study.objects import Entry, Objects
from tailkeep.study.plan import VERSIONS
from tailkeep.study.store_items import Item

ASIDE = "manifest.damaged"


def items_there(
    url: str, found: dict[str, Entry], tokens: dict[str, str], read: Callable[[str], bytes | None]
) -> list[Item]:
    """Return the items among all objects of a store.

    ``found``: name -> entry; ``tokens``: ``kind/key`` -> the try that counts, of the steps whose manifest checks;
    ``read`` returns an object's bytes, and is asked of manifests that were moved aside alone.
    """
    by_step: dict[str, dict[str, Entry]] = {}
    items = []
    for name, entry in found.items():
        parts = name.split("/")
        if parts[0] in VERSIONS and len(parts) > 2:
            by_step.setdefault("/".join(parts[:2]), {})["/".join(parts[2:])] = entry
        elif parts[0] == "studies" and ".json.damaged" in name:
            items.append(Item("damaged", "studies", parts[1].partition(".")[0], f"{url}/{name}", entry.bytes))
    for step, own in by_step.items():
        items += _items_of_step(url, step, own, tokens.get(step), read)
    return items


def _items_of_step(
    url: str, step: str, own: dict[str, Entry], token: str | None, read: Callable[[str], bytes | None]
) -> list[Item]:
    kind, _, key = step.partition("/")
    tries = {name.partition("/")[0] for name in own if "/" in name}
    aside = [name for name in own if name.startswith(ASIDE)]
    there = "manifest.json" in own
    # Where it is not known which files a manifest means, it is taken to mean all that no other one does.
    named = [_token_in(read(f"{step}/{name}")) for name in aside]
    unknown = None in named or (there and token is None)
    damaged = ({name for name in named if name is not None} | (tries if unknown else set())) - {token}

    def size(names: set[str]) -> int:
        return sum(entry.bytes for name, entry in own.items() if name.partition("/")[0] in names)

    items = []
    if there:
        items.append(Item("step", kind, key, f"{url}/{step}", size({"manifest.json", *([token] if token else [])})))
    if aside:
        items.append(Item("damaged", kind, key, f"{url}/{step}/{aside[0]}", size({*aside, *damaged})))
    for name in sorted(tries - damaged - {token}):
        items.append(Item("upload", kind, key, f"{url}/{step}/{name}", size({name})))
    return items


def remove_there(objects: Objects, item: Item, token: str | None) -> None:
    """Remove an item, its manifest first. Files of the try ``token``, which counts, stay, but with the step itself."""
    name = str(item.path).removeprefix(f"{objects.url}/")
    if item.kind not in VERSIONS:
        objects.delete(name)
        return
    step = f"{item.kind}/{item.key}"
    if item.what == "upload":
        mine = [name] if name.rpartition("/")[2] != token else []
    else:
        listed = [path.removeprefix(f"{step}/") for path in objects.listed(step)]
        aside = [path for path in listed if path.startswith(ASIDE)]
        found = {path: objects.get(f"{step}/{path}") for path in aside}
        named = {_token_in(None if own is None else own[0]) for own in found.values()}
        if item.what == "step":
            objects.delete(f"{step}/manifest.json")
            mine = [f"{step}/{token}"] if token is not None else [] if aside else [step]
        else:
            for path in aside:
                objects.delete(f"{step}/{path}")
            mine = [f"{step}/{one}" for one in named if one not in (None, token)]
    for folder in mine:
        for path in objects.listed(folder):
            objects.delete(path)


def _token_in(text: bytes | None) -> str | None:
    """The try that a manifest names, whether it checks or not."""
    try:
        facts: Any = json.loads(text or b"")
        token = facts["token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return token if isinstance(token, str) and "/" not in token and not token.startswith(".") else None
