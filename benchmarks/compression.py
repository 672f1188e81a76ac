"""What compression costs to make: a W8A8 QAT step over a dense one, and the pruning and rebuilding of ResNet-56.

    python benchmarks/compression.py [--depth 20] [--threads 2] [--rounds 5] [--steps 10]

Every arm takes its turn in every round of one process; printed are medians and the ratios of the rounds. Aims: a QAT
step in the machine's fast precision at most 1.2 dense float32 steps and, where the machine multiplies bf16, at most 1.8
dense bf16 steps; ResNet-56 pruned and rebuilt in under 5 s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.models.resnet import ResNet
from tailkeep.study.machine import keep_freed_memory
from tailkeep.study.rebuild import build_model
from tailkeep.study.resolve import fast_precision

SHAPE = (3, 32, 32)
GENERATOR = torch.Generator().manual_seed(0)


def context(images: Tensor, labels: Tensor) -> Context:
    return Context((100,) * 10, SHAPE, 0, torch.device("cpu"), lambda count, draw: [(images, labels)])


def steps(model: nn.Module, images: Tensor, labels: Tensor, precision: str, count: int) -> Callable[[], float]:
    """A function that trains ``count`` steps and returns the seconds of one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    inputs = images.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    model.train()

    def run() -> float:
        start = time.perf_counter()
        for _ in range(count):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(model(inputs).float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - start) / count

    return run


def prune_and_rebuild(images: Tensor, labels: Tensor) -> float:
    """Seconds of pruning ResNet-56 by its published schedule, and of making the same shape again."""
    plain = ResNet(depth=56).plain()
    start = time.perf_counter()
    method, given = FilterPruning(schedule="resnet56_filter_rank"), context(images, labels)
    pruned, change = method.finish(method.prepare(build_model(plain, None, 10, SHAPE, 0), given), given)
    assert change is not None
    method.rebuild(build_model(plain, None, 10, SHAPE, 0), change["values"], SHAPE).load_state_dict(pruned.state_dict())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="steps of an arm in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as a step of a study does
    images = torch.randn(options.batch_size, *SHAPE, generator=GENERATOR).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (options.batch_size,), generator=GENERATOR)
    fast = fast_precision("cpu")

    def dense() -> nn.Module:
        return build_model(ResNet(depth=options.depth).plain(), None, 10, SHAPE, 0)

    quantized = QuantizationAwareTraining(freeze_observers=1.0, freeze_norms=1.0).prepare(
        dense(), context(images, labels)
    )
    arms = {
        f"QAT W8A8 {fast}": steps(quantized, images, labels, fast, options.steps),
        "dense float32": steps(dense(), images, labels, "float32", options.steps),
    }
    if fast == "bf16":
        arms["dense bf16"] = steps(dense(), images, labels, "bf16", options.steps)
    for run in arms.values():
        run()  # warm-up
    rounds = [{name: run() for name, run in arms.items()} for _ in range(options.rounds)]
    threads = f"{options.threads} threads, torch {torch.__version__}"
    length = f"{options.rounds} rounds of {options.steps} steps"
    print(f"ResNet-{options.depth}, batch {options.batch_size}, {threads}, {length}")
    for name in arms:
        print(f"{name:<18} {1000 * statistics.median(r[name] for r in rounds):8.1f} ms a step (median)")
    qat = next(iter(arms))
    for name in list(arms)[1:]:
        ratios = sorted(r[qat] / r[name] for r in rounds)
        print(f"{qat} / {name}: median {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    if fast != "bf16":
        print("this CPU does not multiply bf16: the ratio to a bf16 dense step is not measured")
    seconds = sorted(prune_and_rebuild(images, labels) for _ in range(options.rounds))
    spread = f"{seconds[0]:.2f} to {seconds[-1]:.2f}"
    print(f"ResNet-56 pruned and rebuilt: median {statistics.median(seconds):.2f} s ({spread})")


if __name__ == "__main__":
    main()
