"""The gate's statistics, measured: error rates at the limit, power, coverage, missed maxima and time.

    python benchmarks/gate.py [--part sizes|score|power|coverage|maxima|time ...] [--runs 10000] [--seed 0]

One table a part; without ``--part`` all of them, in about five minutes on one core. Rates are by summing the trinomial
over every table where that is feasible: ``sizes`` (the true loss exactly at the limit: the largest rate over a
discordance of 2 to 20 % at which one class, and a gate of ten, is wrongly called broken, and one wrongly kept, by the
exact test, and beside it by the score test), ``score`` (the score test's size in large units, over what is asked),
``coverage`` (of Tango's 95 % interval and of Wilson's). By simulation: ``power`` (a whole gate's, against the product).
``maxima``: the p values against a grid ten times as dense. ``time``: gates of 1,000 classes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from tailkeep.analysis import power, statistics, tails, tango, trinomial
from tailkeep.analysis.gate import Check, gate

ALPHA = 0.05
Array = NDArray[np.float64]


def tables(n: int, most: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every (n10, n01), or those with at most ``most`` discordant images."""
    end = n if most is None else min(n, most)
    b, c = np.mgrid[: end + 1, : end + 1]
    return b[b + c <= end], c[b + c <= end]


def chances(b: NDArray[np.int64], c: NDArray[np.int64], n: int, p10: float, p01: float) -> Array:
    ways = special.gammaln([n + 1]) - sum(special.gammaln(count + 1) for count in (b, c, n - b - c))
    rest = max(0.0, 1 - p10 - p01)
    return np.exp(ways + special.xlogy(b, p10) + special.xlogy(c, p01) + special.xlogy(n - b - c, rest))


def sizes(_: argparse.Namespace) -> None:
    print("largest error rate at the limit, %       exact: broken  of ten   kept | score: broken  of ten   kept")
    for n in (50, 100, 200, 500, 1000, 2000):
        for delta in (0.01, 0.02, 0.05):
            b, c = tables(n, math.ceil(0.2 * n + 8 * math.sqrt(0.2 * n)))
            z = tango.statistic(b, c, n, delta)
            cuts = {}
            for name, alpha, kept in (("broken", ALPHA, False), ("of ten", ALPHA / 10, False), ("kept", ALPHA, True)):
                normal = float(stats.norm.isf(alpha)) * (-1 if kept else 1)
                cuts["exact", name] = float(power.critical_values(n, delta, alpha, kept)[0])
                cuts["score", name] = normal
            rates = []
            for discordance in np.arange(max(0.02, delta), 0.2001, 0.005):
                chance = chances(b, c, n, (discordance + delta) / 2, max(0.0, (discordance - delta) / 2))
                row = [chance[z <= cut if name == "kept" else z >= cut].sum() for (_, name), cut in cuts.items()]
                rates.append(row)
            found = dict(zip(cuts, np.max(rates, axis=0), strict=True))
            line = [found[test, name] for test in ("exact", "score") for name in ("broken", "of ten", "kept")]
            line[1], line[4] = (1 - (1 - rate) ** 10 for rate in (line[1], line[4]))
            print(f"n {n:5d}  delta {delta:.2f} {'':24s}" + "  ".join(f"{100 * rate:6.2f}" for rate in line))


def score(_: argparse.Namespace) -> None:
    print(
        "size of the score test / what is asked                    broken: .05   .005  .0005 | kept: .05   .005  .0005"
    )
    for n in (1_000, 10_000, 100_000, trinomial.EXACT_TO):
        for delta in (0.001, 0.005, 0.02, 0.05):
            alphas = np.array([0.05, 0.005, 0.0005])
            z = stats.norm.isf(alphas)
            above, _low = trinomial.maximal_tails(n, delta, z)
            _high, below = trinomial.maximal_tails(n, delta, -z)
            line = [*(above / alphas), *(below / alphas)]
            print(f"n {n:9,d}  delta {delta:.3f} {'':28s}" + "  ".join(f"{ratio:6.3f}" for ratio in line))


def whole_gates(options: argparse.Namespace) -> None:
    print("ten classes                                   exit 0, predicted  simulated     exit 1, simulated")
    rng = np.random.default_rng(options.seed)
    settings = [
        ("400 images, 6 %, no loss, delta 5", np.full(10, 400), 0.03, 0.03, 0.05),
        ("3,345 images, 10 %, no loss, delta 2", np.full(10, 3345), 0.05, 0.05, 0.02),
        ("1,500 images, 4 %, half a point, delta 2", np.full(10, 1500), 0.0225, 0.0175, 0.02),
        ("50 to 500 images, 2 %, no loss, delta 5", np.arange(50, 550, 50), 0.01, 0.01, 0.05),
        ("100 images, 5 %, all at delta 5", np.full(10, 100), 0.05, 0.0, 0.05),
        ("200 images, 6 %, all at delta 5", np.full(10, 200), 0.055, 0.005, 0.05),
        ("50 to 500 images, 4 %, all at delta 2", np.arange(50, 550, 50), 0.03, 0.01, 0.02),
    ]
    for name, n, p10, p01, delta in settings:
        draws = np.stack([rng.multinomial(size, [p10, p01, 1 - p10 - p01], size=options.runs) for size in n])
        b, c = draws[:, :, 0].T, draws[:, :, 1].T
        p = trinomial.p_values(b.ravel(), c.ravel(), np.broadcast_to(n, b.shape).ravel(), delta)
        fails = np.array([min(statistics.holm(row.tolist())) <= ALPHA for row in p.broken.reshape(b.shape)])
        passes = (p.kept.reshape(b.shape) <= ALPHA).all(axis=1) & ~fails
        predicted = power.of_gate(power.power(n, delta, p10, p01, ALPHA))
        print(f"{name:46s} {100 * predicted:13.2f} {100 * passes.mean():12.2f} {100 * fails.mean():18.2f}")


def coverage(_: argparse.Namespace) -> None:
    print("Tango's 95 % interval, n 50 to 3,000: lowest and highest coverage, %, by the share of discordant images won")
    shares = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
    print("expected discordant images   " + "".join(f"{share:15.2f}" for share in shares))
    z = float(stats.norm.ppf(0.975))
    for low, high in ((0, 2), (2, 5), (5, 7), (7, 10), (10, 15), (15, 25)):
        line = []
        for share in shares:
            found = []
            for n in (50, 60, 75, 85, 100, 125, 150, 200, 300, 500, 1000, 3000):
                b, c = tables(n, 80)
                for expected in np.arange(low + 0.1 * (low == 0), high, 0.1 if high <= 10 else 0.25):
                    p01 = expected / n * share
                    p10 = expected / n - p01
                    if p10 + p01 > 1:
                        continue
                    inside = np.abs(tango.statistic(b, c, n, p10 - p01)) <= z
                    found.append(chances(b[inside], c[inside], n, p10, p01).sum())
            line.append(f"{100 * min(found):8.2f} {100 * max(found):6.2f}")
        print(f"{low:4d} to {high:3d} {'':18s}" + "".join(line))
    print("Wilson's where n(1-p) >= 8: lowest and highest, %")
    for first, last in ((16, 29), (30, 49), (50, 99), (100, 149), (150, 400)):
        found = []
        for n in range(first, last + 1):
            right = np.arange(n + 1)
            ends = np.array([statistics.wilson(int(count), n) for count in right])
            recall = np.linspace(0.5, 1 - 8 / n, 400)
            inside = (ends[:, :1] <= recall) & (recall <= ends[:, 1:])
            found.append((stats.binom.pmf(right[:, None], n, recall) * inside).sum(axis=0))
        lowest, highest = min(rates.min() for rates in found), max(rates.max() for rates in found)
        print(f"n {first:4d} to {last:4d} {100 * lowest:26.2f} {100 * highest:6.2f}")


def maxima(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    missed: dict[str, list[float]] = {"p < 0.2": [], "0.2 to 0.5": [], "above": []}
    for _ in range(600):
        n = int(np.exp(rng.uniform(np.log(5), np.log(3000))))
        delta = float(rng.choice([0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3]))
        discordant = min(0.9, delta + float(rng.choice([0, 0.01, 0.03, 0.1, 0.3])))
        loss = np.clip(delta + rng.uniform(-3, 3) * np.sqrt(max(discordant, 0.001) / n), -discordant, discordant)
        b, c, _ = rng.multinomial(n, [(discordant + loss) / 2, (discordant - loss) / 2, 1 - discordant])
        split = tails.split(n, delta, tango.statistic(b, c, n, delta))
        top, root = (1 - delta) / 2, np.linspace(0, 1, 2000) ** 2
        p01 = np.concatenate([top * root, top * (1 - root)])
        dense = [tail.max() for tail in split.tails(np.zeros(len(p01), dtype=np.int64), p01 + delta, p01)]
        for own, true in zip(trinomial.p_values(b, c, n, delta)[:2], dense, strict=True):
            place = "p < 0.2" if true < 0.2 else "0.2 to 0.5" if true <= 0.5 else "above"
            missed[place].append(float((true - own[0]) / true))
    print("most that a p value misses of a dense grid's maximum, as a share of it")
    for place, shares in missed.items():
        print(f"{place:12s} of {len(shares):5d} {max(shares):12.1e}")


def timing(options: argparse.Namespace) -> None:
    print("1,000 classes: seconds of CPU")
    rng = np.random.default_rng(options.seed)
    for name, n, loss in (
        ("about 1,000 images each, no loss", rng.multinomial(1_000_000, np.full(1000, 0.001)), 0.0),
        ("about 1,000 images each, loss at the limit", rng.multinomial(1_000_000, np.full(1000, 0.001)), 0.02),
        ("50 images each", np.full(1000, 50), 0.0),
        ("10 to 10,000 images", np.exp(rng.uniform(np.log(10), np.log(10_000), 1000)).astype(int), 0.0),
    ):
        counts = [rng.multinomial(size, [0.03 + loss, 0.03, 0.94 - loss]) for size in n]
        checks = [Check("drop", "class", str(i), int(n[i]), int(b), int(c), 0.02) for i, (b, c, _) in enumerate(counts)]
        start = time.process_time()
        result = gate(checks)
        print(f"{name:46s} {time.process_time() - start:8.2f}   {result.decision}")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "sizes": sizes,
    "score": score,
    "power": whole_gates,
    "coverage": coverage,
    "maxima": maxima,
    "time": timing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), action="append")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for part in options.part or PARTS:
        start = time.process_time()
        PARTS[part](options)
        print(f"-- {part}: {time.process_time() - start:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
