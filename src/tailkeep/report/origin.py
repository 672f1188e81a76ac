"""Where a report comes from: on the page, and inside each of its files, so that a figure can be traced on its own."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from tailkeep.report import words
from tailkeep.report.select import View

PNG_HEAD = 33
"""Bytes of a PNG file's signature and of its first chunk; text may stand right behind."""


def origin(view: View) -> dict[str, Any]:
    """Return the provenance with every part there, if only as a dash."""
    provenance = view.analysis.provenance
    return {
        "short": {
            "Result hash": provenance.get("result_hash") or words.NOTHING,
            "Code version": provenance.get("code_version") or words.NOTHING,
            "Study file, SHA-256": provenance.get("spec_sha256") or words.NOTHING,
            "Seeds": ", ".join(map(str, view.analysis.seeds)) or words.NOTHING,
            "Steps": words.number(provenance.get("steps"), 0),
            "Compute": words.duration(provenance.get("compute_seconds")),
        },
        "environment": flat(provenance.get("environment")),
        "data": flat(provenance.get("data")),
        "spec": str(provenance.get("spec") or ""),
    }


def flat(value: Any) -> dict[str, str]:
    """Return a tree of facts as one level: ``{"cifar10 · train": "a3…"}``."""
    return dict(_leaves("", value))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{name} · {key}" if name else str(key), item)
    elif value not in (None, "") or name:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def stamp(view: View) -> str:
    """Return one line that traces a file back: study, result, data, study file, code, seeds."""
    facts = origin(view)
    source = facts["environment"].get("source")
    code = f"tailkeep {facts['short']['Code version']}" + (f" (source {source})" if source else "")
    parts = [
        f"study {view.analysis.name}",
        f"result {facts['short']['Result hash']}",
        *(f"data {name} {digest}" for name, digest in facts["data"].items()),
        f"study file {facts['short']['Study file, SHA-256']}",
        code,
        f"seeds {facts['short']['Seeds']}",
    ]
    return "; ".join(" ".join(part.split()) for part in parts)


def stamped_svg(drawing: str, title: str, line: str) -> str:
    """Put a title and the stamp into an SVG file."""
    head, mark, rest = drawing.partition(">")
    return f"{head}{mark}<title>{escape(title)}</title><desc>{escape(line)}</desc>{rest}"


def stamped_png(image: bytes, title: str, line: str) -> bytes:
    """Put a title and the stamp into a PNG file, as its text chunks."""
    chunks = [_chunk(name, text) for name, text in (("Title", title), ("Description", line), ("Software", "tailkeep"))]
    return image[:PNG_HEAD] + b"".join(chunks) + image[PNG_HEAD:]


def _chunk(name: str, text: str) -> bytes:
    body = b"iTXt" + name.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
