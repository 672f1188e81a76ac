from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

PREDICT = """
import json, sys
import numpy as np, torch
from pathlib import Path
from tailkeep.data.batches import normalize
from tailkeep.evaluation.predict import predict
from tailkeep.study.rebuild import rebuild
folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
images = np.load(folder / "images.npy")
for place in sorted(folder.glob("model*")):
    model = rebuild(json.loads((place / "architecture.json").read_text()), place / "model.safetensors", None)
    np.save(place / "logits.npy", predict(model, images, 64, torch.device("cpu"), normalize))
"""


@pytest.fixture
def predict_in_a_new_process() -> Callable[[Path], None]:
    """Rebuild every model*/ of a folder from its files and leave its logits of images.npy beside it."""

    def predict(folder: Path) -> None:
        threads = str(torch.get_num_threads())
        subprocess.run([sys.executable, "-c", PREDICT, str(folder), threads], check=True, timeout=300)

    return predict
