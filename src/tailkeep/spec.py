"""What every spec is: a frozen value with one canonical text, and so one content hash.

A spec is declared in the file of the thing that it steers and told apart in YAML by its ``kind``. Settings that
change no result (device count, workers, paths, log level) are never in a spec.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen value. Unknown keys, NaN and infinity are refused; every default is written out when it is dumped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def plain(self) -> dict[str, Any]:
        """Return the spec as plain JSON values, defaults written out."""
        return self.model_dump(mode="json")


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a plain value: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def content_key(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of a plain value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
