"""Where every random number comes from: a seed and the name of a stream, never a global state.

Two arms that share a seed share their streams, so that a comparison between them is paired.
"""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed derived by SHA-256 from ``seed`` and the names of a stream.

    Equal arguments give equal seeds on every machine and Python version.
    """
    text = "\x1f".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1
