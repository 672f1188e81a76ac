"""Bad inputs 8 to 13 and 15: a user's own images."""

import shutil

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tailkeep.data.folder import ImageFolder
from tailkeep.data.subset import class_counts, overlap
from tailkeep.errors import BAD_INPUT, BadInput

SPLIT = {"train/cat": 12, "train/dog": 11, "test/cat": 10, "test/dog": 10}


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delenv("TAILKEEP_DATA_ROOT", raising=False)

    def run(root, **settings):
        return ImageFolder(**{"size": 8, **settings}).load(root, tmp_path / "cache")

    return run


def test_with_a_test_folder(folder, load):
    root = folder(SPLIT)
    data = load(root)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (3, 8, 8)
    assert (class_counts(data.train.labels, 2), class_counts(data.test.labels, 2)) == ((12, 11), (10, 10))
    assert data.notes == ()
    for split in (data.train, data.test):
        for row in (0, 5, len(split) - 1):
            pixels = np.asarray(Image.open(root / str(split.ids[row])))
            assert np.array_equal(split.images[row], pixels.transpose(2, 0, 1))
            assert str(split.ids[row]).split("/")[1] == data.class_names[split.labels[row]]


def test_without_a_test_folder(folder, load):
    root = folder({"cat": 50, "dog": 100, "fox": 3})
    data = load(root, test_fraction=0.2)
    assert class_counts(data.test.labels, 3) == (10, 20, 1)
    assert class_counts(data.train.labels, 3) == (40, 80, 2)
    assert overlap(data.train.images, data.test.images) == []
    assert len({*data.train.ids.tolist(), *data.test.ids.tolist()}) == 153
    assert data.notes[0] == "no test/ folder: 31 of 153 images were split off for testing"
    assert load(root, split_seed=1).test.digest != data.test.digest
    assert class_counts(load(root, split_seed=1).test.labels, 3) == (10, 20, 1)


def test_the_split_follows_the_pixels_and_not_the_names(folder, load):
    root = folder({"cat": 20, "dog": 20})
    before = load(root)
    tested = {image.tobytes() for image in before.test.images}
    for path in sorted((root / "cat").iterdir()):
        path.rename(path.with_name(f"renamed-{99 - int(path.stem)}.png"))
    after = load(root)
    assert {image.tobytes() for image in after.test.images} == tested
    assert after.test.ids.tolist() != before.test.ids.tolist()


def test_copies_of_an_image_come_to_one_side(folder, load):
    root = folder({"cat": 10, "dog": 10})
    for path in sorted((root / "cat").iterdir()):
        for copy in range(4):
            shutil.copy(path, root / "cat" / f"{path.stem}-{copy}.png")
    data = load(root, test_fraction=0.3)  # a split by position would part copies, and refuse the folder
    assert overlap(data.train.images, data.test.images) == []
    assert class_counts(data.test.labels, 2) == (15, 3)


def test_a_class_of_one_image_only_cannot_be_split(folder, load):
    root = folder({"cat": 10, "dog": 1})
    with pytest.raises(BadInput, match="class 'dog' has 1 images that differ too little to be split"):
        load(root)
    shutil.copy(root / "dog" / "000.png", root / "dog" / "copy.png")
    with pytest.raises(BadInput, match="class 'dog' has 2 images that differ too little"):
        load(root)


def test_size_and_channels(folder, load):
    root = folder(SPLIT)
    assert load(root, size=(4, 16), channels=1).image_shape == (1, 4, 16)
    with pytest.raises(ValidationError):
        ImageFolder(size=3)
    with pytest.raises(ValidationError):
        ImageFolder(channels=2)


def test_where_the_folder_is(folder, load, monkeypatch):
    root = folder(SPLIT)
    found = load(root)
    assert load(None, path=str(root)).train.digest == found.train.digest
    assert load(root.parent, path="images").train.digest == found.train.digest
    assert ImageFolder(path="a/images").label == "images"
    assert ImageFolder().label == "folder"
    with pytest.raises(BadInput, match="name the folder of images with path:, --data-root or TAILKEEP_DATA_ROOT"):
        load(None)
    with pytest.raises(BadInput, match="no such folder of images; expected train/CLASS"):
        load(root / "absent")
    monkeypatch.setenv("TAILKEEP_DATA_ROOT", str(root))
    assert load(None).train.digest == found.train.digest


def test_08_a_test_split_that_lacks_a_class_keeps_the_training_labels(folder, load):
    data = load(folder({"train/ant": 3, "train/bee": 3, "train/cow": 3, "test/ant": 10, "test/cow": 12}))
    assert data.class_names == ("ant", "bee", "cow")
    assert class_counts(data.test.labels, 3) == (10, 0, 12)  # cow is 2, not the second folder's 1
    assert data.notes == ("few test images, so little can be said of these classes: 'bee' has 0",)


def test_08_an_unknown_test_class_is_refused(folder, load):
    with pytest.raises(BadInput, match="test/ has a class 'cow' that train/ does not have") as caught:
        load(folder({**SPLIT, "test/cow": 2}))
    assert caught.value.exit_code == BAD_INPUT


def test_09_clutter_changes_nothing(folder, load, picture):
    root = folder(SPLIT)
    before = load(root)
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    picture().save(root / "train" / ".ipynb_checkpoints" / "1.png")
    picture().save(root / "train" / "cat" / ".ipynb_checkpoints" / "1-checkpoint.png")
    picture().save(root / "train" / "cat" / ".hidden.png")
    after = load(root)
    assert (after.train.digest, after.class_names, after.notes) == (before.train.digest, ("cat", "dog"), ())


def test_09_other_files_are_counted(folder, load):
    root = folder({**SPLIT, "valid/cat": 1})
    (root / "train" / "cat" / "notes.txt").write_text("x")
    assert load(root).notes == (
        "ignored 1 files that are no images in class folders: train/cat/notes.txt",
        "folders beside train/ and test/ were not read: valid",
    )


def damage(path):
    path.write_bytes(path.read_bytes()[:100])


def test_10_a_truncated_image_is_named_and_skipped_only_when_allowed(folder, load):
    root = folder(SPLIT)
    before = load(root)
    damage(root / "train" / "cat" / "003.png")
    damage(root / "test" / "dog" / "004.png")
    for allowed in (0, 1):
        with pytest.raises(
            BadInput, match=f"2 damaged images, allow_bad is {allowed}: .*or set allow_bad: 2"
        ) as caught:
            load(root, allow_bad=allowed)
        assert "train/cat/003.png (" in str(caught.value)
        assert "test/dog/004.png (" in str(caught.value)
    data = load(root, allow_bad=2)
    assert (len(data.train), len(data.test)) == (22, 19)
    assert "train/cat/003.png" not in data.train.ids
    kept = [row for row, name in enumerate(before.train.ids) if name != "train/cat/003.png"]
    assert np.array_equal(data.train.images, before.train.images[kept])
    assert data.train.labels.tolist() == before.train.labels[kept].tolist()
    assert data.notes[0].startswith("skipped 2 damaged images: train/cat/003.png (")


def test_10_a_class_of_damaged_images_only(folder, load):
    root = folder({**SPLIT, "train/cat": 1})
    damage(root / "train" / "cat" / "000.png")
    with pytest.raises(BadInput, match="every class needs at least 1 training images; 'cat' has 0"):
        load(root, allow_bad=5)


def test_11_conversions_are_counted(folder, load, picture, rng):
    root = folder(SPLIT)
    cats = root / "train" / "cat"
    for index in range(3):
        picture("CMYK").save(cats / f"c{index}.tif")
    for index in range(2):
        picture("RGBA").save(cats / f"a{index}.png")
    Image.fromarray(rng.integers(0, 65536, (8, 8), dtype=np.uint16)).save(cats / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(cats / "turned.png", exif=exif)
    data = load(root)
    assert len(data.train) == 23 + 7
    assert data.notes == (
        "3 CMYK images converted to RGB",
        "1 images of 16 bits cut to 8",
        "1 images turned upright by their EXIF tag",
        "2 transparent images laid on white",
    )


def test_12_an_empty_class(folder, load):
    root = folder(SPLIT)
    (root / "train" / "fox").mkdir()
    with pytest.raises(BadInput, match="classes without a training image: 'fox'"):
        load(root)


def test_12_too_few_test_images_are_flagged_or_refused(folder, load):
    root = folder({**SPLIT, "test/dog": 9})
    assert load(root).notes == ("few test images, so little can be said of these classes: 'dog' has 9",)
    assert load(root, min_test=9).notes == load(root).notes
    with pytest.raises(BadInput, match="every class needs at least 10 test images; 'dog' has 9"):
        load(root, min_test=10)


def test_12_a_test_folder_without_images(folder, load):
    root = folder({"train/cat": 3, "train/dog": 3})
    (root / "test").mkdir()
    with pytest.raises(BadInput, match="the test split has no image"):
        load(root)


def test_13_an_image_in_both_splits(folder, load):
    root = folder(SPLIT)
    with Image.open(root / "train" / "cat" / "002.png") as image:
        image.save(root / "test" / "dog" / "copy.bmp")  # other bytes, the same pixels
    pair = "train/cat/002.png = test/dog/copy.bmp"
    with pytest.raises(
        BadInput, match=f"1 test images have the same pixels as a training image: {pair}.*allow_overlap"
    ):
        load(root)
    assert load(root, allow_overlap=True).notes == (
        f"overlap: 1 test images have the same pixels as a training image ({pair})",
    )


def test_13_an_image_in_two_classes_of_one_split(folder, load):
    # Without test/, a copy under another class can fall on the other side, and is refused as any other.
    root = folder({"cat": 8, "dog": 8})
    tested = [name for name in load(root, test_fraction=0.5).test.ids if name.startswith("cat/")]
    shutil.rmtree(root / "dog")
    (root / "dog").mkdir()
    for name in tested:  # a class is split by itself: half of these copies come to training
        shutil.copy(root / name, root / "dog")
    with pytest.raises(BadInput, match="test images have the same pixels as a training image"):
        load(root, test_fraction=0.5)


def test_15_changed_data_is_seen(folder, load, picture):
    root = folder(SPLIT)
    before = load(root)
    path = root / "train" / "cat" / "003.png"
    picture().save(path)
    after = load(root)
    assert after.train.digest != before.train.digest
    assert after.test.digest == before.test.digest
    path.unlink()
    assert load(root).train.digest not in (before.train.digest, after.train.digest)
    (root / "train" / "dog").rename(root / "train" / "wolf")
    (root / "test" / "dog").rename(root / "test" / "wolf")
    assert load(root).class_names == ("cat", "wolf")


def test_decoded_once(folder, load, monkeypatch):
    root = folder(SPLIT)
    first = load(root)
    monkeypatch.setattr("tailkeep.data.folder.decode_all", lambda *_: pytest.fail("decoded again"))
    second = load(root)
    assert isinstance(second.train.images, np.memmap)
    assert np.array_equal(first.train.images, second.train.images)
    assert (second.notes, second.train.digest) == (first.notes, first.train.digest)


def test_a_size_too_large_for_memory(folder, load, monkeypatch):
    root = folder(SPLIT)
    monkeypatch.setattr("tailkeep.data.folder.TOTAL_LIMIT", 43 * 3 * 8 * 8 - 1)
    with pytest.raises(BadInput, match=r"43 images of .* choose a smaller size"):
        load(root)


def test_a_link_to_nothing_is_named(folder, load):
    root = folder(SPLIT)
    (root / "train" / "cat" / "gone.png").symlink_to(root / "train" / "cat" / "never.png")
    with pytest.raises(BadInput, match=r"train/cat/gone\.png: cannot be read \(No such file"):
        load(root)
