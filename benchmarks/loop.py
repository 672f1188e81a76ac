"""The training loop against the bare model step: what data, augmentation, schedule, log and NaN check cost.

    python benchmarks/loop.py [--depth 20] [--device cpu] [--threads 1] [--precision auto] [--rounds 5]

The bare step is forward, loss, backward and SGD on one batch that is already on the device, in the same precision and
memory format. Both take turns in one process, so that a machine that slows down slows both. Printed: images a second of
each, and the ratio of their times by round, with its median (the aim: at most 1.05).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.data.batches import Augment, TrainingBatches
from tailkeep.losses.cross_entropy import CrossEntropy
from tailkeep.models.resnet import ResNet
from tailkeep.study.machine import keep_freed_memory
from tailkeep.study.resolve import fast_precision
from tailkeep.training.loop import Training, fit, optimizer_for
from tailkeep.training.recipe import Recipe

IMAGES = 12_406


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as a step of a study does
    device = torch.device(options.device)
    precision = fast_precision(options.device) if options.precision == "auto" else options.precision
    recipe = Recipe(steps=options.steps, batch_size=options.batch_size, lr=0.01)

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    batches = TrainingBatches(images, labels, options.batch_size, Augment(), 0, device, dtype)
    base = CrossEntropy().build((IMAGES // 10,) * 10, device)

    def loss(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        logits = model(x).float()
        return base(logits, y, progress), logits

    def whole(model: nn.Module) -> None:
        fit(model, Training(batches, loss, recipe, 0, precision))

    x, y = batches.batch(0)

    def bare(model: nn.Module) -> None:
        optimizer = optimizer_for(model, recipe, None)
        model.train()
        for _ in range(options.steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                value = F.cross_entropy(model(x).float(), y)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()

    def seconds(work: object) -> float:
        torch.manual_seed(0)
        model = ResNet(depth=options.depth).build(10, (3, 32, 32)).to(device, memory_format=torch.channels_last)
        _wait(device)
        started = time.perf_counter()
        work(model)  # type: ignore[operator]
        _wait(device)
        return time.perf_counter() - started

    seconds(bare), seconds(whole)  # warm up
    pairs = [(seconds(whole), seconds(bare)) for _ in range(options.rounds)]
    count = options.steps * options.batch_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {options.threads} thread(s)"
    print(f"ResNet-{options.depth}, batch {options.batch_size}, {precision}, {name}, torch {torch.__version__}")
    print(f"loop: {count / statistics.median(a for a, _ in pairs):,.0f} images/s")
    print(f"bare: {count / statistics.median(b for _, b in pairs):,.0f} images/s")
    ratios = sorted(a / b for a, b in pairs)
    spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}, {len(pairs)} rounds"
    print(f"loop / bare: median {statistics.median(ratios):.3f} ({spread})")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
