"""Bad inputs 8 to 15b of a user's own data, seen from the command line: exit code 2 and the words, no traceback."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tailkeep.cli import main

STUDY = """\
name: mine
data:
  source: {kind: folder, path: images, size: 8, channels: 1}
imbalance: {kind: natural}
balanced: none
models:
  - model: {kind: digits_net}
recipe: {epochs: 1, batch_size: 8, lr: 0.05, precision: float32}
methods:
  - {name: A8, method: {kind: qat}, recipe: {epochs: 0, precision: float32}}
controls: {continued: false, churn_floor: false}
seeds: [0]
"""
SPLIT = {"train/cat": 12, "train/dog": 11, "test/cat": 10, "test/dog": 10}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TAILKEEP_DATA_ROOT", "TAILKEEP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TAILKEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tailkeep(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the study's text in an empty folder; exit code, output and errors (on one line)."""

    def run(command: str, text: str = STUDY, *options: str) -> tuple[int, str, str]:
        Path("study.yaml").write_text(text, encoding="utf-8")
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([command, "study.yaml", "--data-root", str(here), *options])
        output, errors = capsys.readouterr()
        assert "Traceback" not in errors
        return int(exit_info.value.code or 0), output, " ".join(errors.split())

    return run


@pytest.fixture
def refused(tailkeep: Run, here: Path) -> Callable[..., None]:
    """Plan a study that must be refused with these words, before anything is stored."""

    def check(*words: str, text: str = STUDY) -> None:
        code, _, errors = tailkeep("plan", text)
        assert code == 2, errors
        assert errors.startswith("tailkeep: ")
        for word in words:
            assert word in errors, f"{word!r} is not in: {errors}"
        assert not (here / "tailkeep-store").exists()

    return check


def _with(settings: str) -> str:
    return STUDY.replace("channels: 1", f"channels: 1, {settings}")


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8))


@pytest.fixture
def images(here: Path) -> Callable[[Mapping[str, int]], Path]:
    def write(counts: Mapping[str, int] = SPLIT) -> Path:
        root, seed = here / "images", 0
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for index in range(count):
                _picture(seed).save(root / name / f"{index:02d}.png")
                seed += 1
        return root

    return write


def test_08_a_test_split_that_lacks_a_class(images: Any, tailkeep: Run) -> None:
    images({"train/ant": 9, "train/bee": 9, "train/cow": 9, "test/ant": 10, "test/cow": 10})
    # By the folders' order alone cow would be the second class, not the third.
    code, _, errors = tailkeep("plan", STUDY.replace("channels: 1}", "channels: 1}\n  class_order: [cow, bee, ant]"))
    assert code == 0, errors


def test_08_an_unknown_test_class(images: Any, refused: Any) -> None:
    images({**SPLIT, "test/dogs": 3})
    refused("test/ has a class 'dogs' that train/ does not have", "did you mean 'dog'?", "'cat', 'dog'")


def test_09_dotfiles_and_checkpoints_are_no_classes(images: Any, tailkeep: Run) -> None:
    root = images()
    for place in (".ipynb_checkpoints", "train/.ipynb_checkpoints", "train/cat/.ipynb_checkpoints"):
        (root / place).mkdir()
        _picture(999).save(root / place / "00-checkpoint.png")
    code, _, errors = tailkeep("plan", STUDY.replace("channels: 1}", "channels: 1}\n  class_order: [dog, cat]"))
    assert code == 0, errors  # a third class would make class_order incomplete


def test_09_the_classes_are_listed(images: Any, refused: Any) -> None:
    images()
    order = STUDY.replace("channels: 1}", "channels: 1}\n  class_order: [dog, checkpoints]")
    refused("class_order names dog, checkpoints", "the classes are cat, dog", text=order)


def test_10_a_truncated_image(images: Any, refused: Any, tailkeep: Run) -> None:
    path = images() / "train" / "cat" / "03.png"
    path.write_bytes(path.read_bytes()[:60])
    refused("1 damaged images, allow_bad is 0", "train/cat/03.png (", "set allow_bad: 1")
    code, _, errors = tailkeep("plan", _with("allow_bad: 1"))
    assert code == 0, errors


def test_08_10_11_13_what_was_done_to_the_data_stands_on_the_report(images: Any, tailkeep: Run) -> None:
    root = images({**SPLIT, "train/ant": 9})  # of which there is no test image
    cats = root / "train" / "cat"
    (root / "test" / "dog" / "copy.png").write_bytes((cats / "02.png").read_bytes())
    (cats / "03.png").write_bytes((cats / "03.png").read_bytes()[:60])
    noise = np.random.default_rng(7)
    Image.fromarray(noise.integers(0, 256, (8, 8, 4), dtype=np.uint8), "CMYK").save(cats / "a.tif")
    Image.fromarray(noise.integers(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA").save(cats / "b.png")
    Image.fromarray(noise.integers(0, 65536, (8, 8), dtype=np.uint16)).save(cats / "c.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture(998).save(cats / "d.png", exif=exif)
    code, output, errors = tailkeep("run", _with("allow_bad: 1, allow_overlap: true"), "--workers", "1")
    assert code == 0, errors + output
    notes = json.loads(Path("tailkeep-results/mine/verdict.json").read_text(encoding="utf-8"))["notes"]
    page = Path("tailkeep-results/mine/report.html").read_text(encoding="utf-8")
    for note in (
        "skipped 1 damaged images: train/cat/03.png (",
        "1 CMYK images converted to RGB",
        "1 images of 16 bits cut to 8",
        "1 images turned upright by their EXIF tag",
        "1 transparent images laid on white",
        "few test images, so little can be said of these classes: ",
        "overlap: 1 test images have the same pixels as a training image (train/cat/02.png = test/dog/copy.png)",
    ):
        assert [entry for entry in notes if entry.startswith(f"images: {note}")], notes
        assert note in page


def test_12_an_empty_class(images: Any, refused: Any) -> None:
    images({**SPLIT, "train/fox": 0})
    refused("classes without a training image: 'fox'", "add images or remove the folders")


def test_12_too_few_test_images(images: Any, refused: Any) -> None:
    images({**SPLIT, "test/dog": 4})
    refused("every class needs at least 5 test images; 'dog' has 4", text=_with("min_test: 5"))


def test_13_the_same_image_in_train_and_test(images: Any, refused: Any) -> None:
    root = images()
    (root / "test" / "dog" / "copy.png").write_bytes((root / "train" / "cat" / "02.png").read_bytes())
    refused("1 test images have the same pixels", "train/cat/02.png = test/dog/copy.png", "allow_overlap: true")


def test_14_an_archive_that_leads_outside(refused: Any, here: Path) -> None:
    with tarfile.open(here / "cifar-10-python.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-py/../../evil")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    text = STUDY.replace("{kind: folder, path: images, size: 8, channels: 1}", "{kind: cifar10}")
    refused("refused, its member 'cifar-10-batches-py/../../evil' leads outside the archive", text=text)
    assert not (here.parent / "evil").exists()


def test_15_data_that_changed_between_runs(images: Any, tailkeep: Run, here: Path) -> None:
    root = images()
    code, output, errors = tailkeep("run", STUDY, "--workers", "1")
    assert code == 0, errors + output
    before = json.loads((here / "tailkeep-store" / "studies" / "mine.json").read_text())["data"]["images"]
    stored = sorted(path.parent.name for path in (here / "tailkeep-store").rglob("manifest.json"))
    _picture(997).save(root / "train" / "dog" / "05.png")
    code, _, errors = tailkeep("run", STUDY, "--workers", "1")
    assert code == 2
    assert "the data of study 'mine' changed since its last run" in errors
    assert f"images (train): {before['train'][:12]} -> " in errors
    assert "(test)" not in errors
    assert "--new-data" in errors
    assert sorted(path.parent.name for path in (here / "tailkeep-store").rglob("manifest.json")) == stored
    code, output, errors = tailkeep("run", STUDY, "--workers", "1", "--new-data")
    assert code == 0, errors + output
    after = json.loads((here / "tailkeep-store" / "studies" / "mine.json").read_text())["data"]["images"]
    assert after["train"] != before["train"]
    assert after["test"] == before["test"]
    now = {path.parent.name for path in (here / "tailkeep-store").rglob("manifest.json")}
    assert now > set(stored)  # nothing stored was lost
    assert tailkeep("run", STUDY, "--workers", "1")[0] == 0  # the new data is now the study's
    _picture(998).save(root / "test" / "dog" / "05.png")
    assert "images (test): " in tailkeep("run", STUDY, "--workers", "1")[2]
    assert tailkeep("run", STUDY, "--workers", "1", "--new-data")[0] == 0, "also in a process that has read the old one"


def _official(here: Path, **extra: Any) -> None:
    folder = here / "cifar-10-batches-py"
    folder.mkdir()
    noise = np.random.default_rng(0)
    meta = {b"label_names": [b"class %d" % n for n in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = noise.integers(0, 256, (20, 3072), dtype=np.uint8)
        content = {b"data": pixels, b"labels": [n % 10 for n in range(20)], b"extra": extra.get(name)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


CIFAR = STUDY.replace("{kind: folder, path: images, size: 8, channels: 1}", "{kind: cifar10}").replace(
    "{kind: digits_net}", "{kind: resnet}"
)


def test_15a_a_cifar_file_that_runs_code(refused: Any, here: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {here / 'sprung'}",)

    _official(here, data_batch_2=Trap())
    refused("data_batch_2: refused, it asks for", ".system;", "nothing else is ever loaded", text=CIFAR)
    assert not (here / "sprung").exists()


def test_15a_other_checksums_are_stamped_not_official(tailkeep: Run, here: Path) -> None:
    _official(here)
    code, output, errors = tailkeep("run", CIFAR.replace("kind: resnet", "kind: digits_net"), "--workers", "1")
    assert code == 0, errors + output
    page = Path("tailkeep-results/mine/report.html").read_text(encoding="utf-8")
    assert "cifar10: not official: checksums differ for batches.meta, data_batch_1" in page


def test_15a_a_download_without_a_network_or_with_a_wrong_checksum(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailkeep.data import download

    def no_network(url: str) -> Any:
        raise OSError("Network is unreachable")

    (here / "study.yaml").write_text(CIFAR, encoding="utf-8")
    answers = ((no_network, "Where there is no network, fetch"), (lambda url: io.BytesIO(b"x"), "checksum"))
    for answer, words in answers:
        monkeypatch.setattr(download, "open_url", answer)
        with pytest.raises(SystemExit) as exit_info:
            main(["plan", "study.yaml"])
        errors = capsys.readouterr().err
        assert exit_info.value.code == 2, errors
        assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in errors
        assert words in errors
        assert "Traceback" not in errors
    assert [path for path in (here / "cache").rglob("*") if path.is_file()] == []


def test_15b_more_images_than_there_are(images: Any, refused: Any) -> None:
    images()
    text = STUDY.replace("{kind: natural}", "{kind: exponential, ratio: 2, n_max: 50}")
    refused("n_max 50", "needs 50 images, its class has 12", "the largest possible n_max is 12", text=text)


def test_15b_a_ratio_that_leaves_a_class_empty(images: Any, refused: Any) -> None:
    images()
    text = STUDY.replace("{kind: natural}", "{kind: exponential, ratio: 20, n_max: 12}")
    refused("leaves the class of rank 1 without an image", "the largest possible ratio is 12", text=text)


def test_15b_a_twin_that_the_images_do_not_suffice_for(images: Any, refused: Any) -> None:
    images()
    refused(
        "balanced: full needs 12 images of every class, but class 'dog' of images has 11",
        "balanced: none",
        text=STUDY.replace("balanced: none", "balanced: full"),
    )
