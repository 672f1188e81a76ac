"""Bit flips and truncations over a finished store: does ``verify`` see every one, and is none of them served?

    python benchmarks/bit_flips.py [--flips 100] [--truncations 20] [--seed 0]

Each flip changes one bit of one file (of any step or record, drawn by its bytes or, every second time, by file, so that
small files are not spared); each truncation cuts one file to a random length below its own. Then the store is verified,
and the step is asked for as a run would. The file is put back before the next one. Exit code 1 where one goes unseen.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from harness import chooser, fork, placed, run, study_of, wait, warm

from tailkeep.errors import BadInput
from tailkeep.study.record import read_record
from tailkeep.study.store import Store
from tailkeep.study.verify import verify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--truncations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tailkeep-flips-"))
    try:
        study = study_of(folder, methods=1, epochs=1)
        warm(study, folder / "warm")
        root = folder / "store"
        code = wait(fork(run(placed(study, root))))
        assert code == 0, f"the run ended with {code}"
        seen = trials(root, options.flips, options.truncations, options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
    wrong = seen["not seen by verify"] + seen["served"]
    print("as it must be" if not wrong else f"WRONG: {wrong}")
    sys.exit(1 if wrong else 0)


def trials(root: Path, flips: int, truncations: int, seed: int) -> Counter[str]:
    """Change one file at a time and count what was seen of it."""
    rng, seen = chooser(seed), Counter[str]()
    files = [path for path in sorted(root.glob("*/*/*")) if path.is_file()] + sorted(root.glob("studies/*.json"))
    sizes = [path.stat().st_size for path in files]
    assert not verify(root, move=False).damages
    for number in range(flips + truncations):
        path = rng.choices(files, sizes)[0] if number % 2 else rng.choice(files)
        data = path.read_bytes()
        if number < flips:
            changed = bytearray(data)
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            seen["bits flipped"] += 1
        else:
            path.write_bytes(data[: rng.randrange(len(data))])
            seen["files cut short"] += 1
        damages = verify(root, move=False).damages
        seen["seen by verify" if len(damages) == 1 else "not seen by verify"] += 1
        seen["served" if served(root, path) else "not served"] += 1
        path.write_bytes(data)
    assert not verify(root, move=False).damages
    return seen


def served(root: Path, path: Path) -> bool:
    """Whether a step, or a record, is believed."""
    if path.parent.name == "studies":
        try:
            read_record(path)
        except BadInput:
            return False
        return True
    kind, key = path.parent.parent.name, path.parent.name
    store = Store(root)
    if store.status(kind, key) != "missing":
        return True
    try:
        store.file(kind, key, path.name)
    except BadInput:
        return False
    return True


if __name__ == "__main__":
    main()
