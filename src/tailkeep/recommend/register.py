"""The order, written before the held-out split is predicted, and how often that split was asked before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailkeep.files import read_json, readable_json, write_json
from tailkeep.recommend.search import PRUNED, Searched
from tailkeep.recommend.setup import Setup
from tailkeep.spec import content_key
from tailkeep.study.store import Store


def order_record(setup: Setup, searched: Searched, test_digest: str) -> dict[str, Any]:
    """Return the order and every number that it rests on, as plain values."""
    request = setup.request
    images = dict(zip(setup.class_names, setup.sizes, strict=True))
    order = []
    for place, name in enumerate(searched.order, 1):
        found = searched.found[name]
        assert found.forecast is not None
        assert found.counts is not None
        order.append(
            {
                **{"place": place, "name": name, "predicted_power": found.forecast.power},
                "class_power": list(found.forecast.class_power),
                "validation": {
                    "n": list(found.counts.n),
                    "n10": list(found.counts.n10),
                    "n01": list(found.counts.n01),
                },
                "cost": found.cost,
            }
        )
    return {
        **{"study": setup.study.name, "baseline": setup.baseline, "seed": setup.seed},
        **{"max_class_drop": request.max_class_drop, "confidence": request.confidence},
        "budget": None if request.budget is None else request.budget.words,
        "held_out": {"split": "test", "digest": test_digest, "images": images},
        **{"order": order, "given_up_early": sorted(searched.names(PRUNED))},
    }


def write_order(record: dict[str, Any], out: Path, store: Store) -> int:
    """Write the order to ``out/order.json`` and into the store; return how many *other* orders used these images.

    The same question on the same models writes the same bytes.
    """
    name = content_key(record)[:16]
    others = 0
    for path in store.files_in("recommend", ".json"):
        same = read_json(path).get("held_out", {}).get("digest") == record["held_out"]["digest"]
        others += same and path.stem != name
    store.put(f"recommend/{name}.json", readable_json(record).encode("utf-8"))
    write_json(out / "order.json", record)
    return others
