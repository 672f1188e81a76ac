import os
import unicodedata
from pathlib import Path

import pytest

from tailkeep.data import scan
from tailkeep.data.scan import scan_folder
from tailkeep.errors import BAD_INPUT, BadInput


@pytest.fixture
def tree(tmp_path):
    """Write empty files (no image is opened here); a name that ends in / is a folder."""
    root = tmp_path / "images"

    def write(*names):
        for name in names:
            path = root / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch()
        return root

    return write


def names(split, root):
    return {label: [path.relative_to(root).as_posix() for path in paths] for label, paths in split.items()}


def test_classes_without_a_split(tree):
    root = tree("dog/b.png", "dog/a.JPG", "cat/deep/er/x.webp", "cat/y.tiff")
    found = scan_folder(root)
    assert names(found.train, root) == {"cat": ["cat/deep/er/x.webp", "cat/y.tiff"], "dog": ["dog/a.JPG", "dog/b.png"]}
    assert found.test is None
    assert (found.others, found.unread) == ([], [])


def test_classes_of_two_splits(tree):
    root = tree("train/cat/1.png", "train/dog/1.png", "test/dog/2.png", "valid/dog/3.png", "readme.txt")
    found = scan_folder(root)
    assert names(found.train, root) == {"cat": ["train/cat/1.png"], "dog": ["train/dog/1.png"]}
    assert names(found.test, root) == {"dog": ["test/dog/2.png"]}
    assert found.unread == ["valid"]


def test_a_class_may_be_called_train(tree):
    found = scan_folder(tree("train/1.png", "test/1.png", "plane/1.png"))
    assert list(found.train) == ["plane", "test", "train"]
    assert found.test is None


@pytest.mark.parametrize(
    "clutter",
    [
        ".ipynb_checkpoints/1-checkpoint.png",
        ".ipynb_checkpoints/train/cat/1.png",
        "train/.ipynb_checkpoints/1.png",
        "train/cat/.ipynb_checkpoints/1-checkpoint.png",
        "train/cat/._1.png",
        "train/.DS_Store",
        "train/cat/.hidden.png",
        "train/cat/Thumbs.db",
        "__MACOSX/train/cat/1.png",
        "train/__MACOSX/1.png",
        "test/.git/1.png",
    ],
)
def test_09_dotfiles_and_clutter_are_ignored(tree, clutter):
    plain = ("train/cat/1.png", "train/dog/1.png", "test/cat/2.png")
    before = scan_folder(tree(*plain))
    root = tree(clutter)
    assert (root / clutter).exists()
    assert scan_folder(root) == before


def test_files_that_are_no_images_are_listed(tree):
    root = tree("train/cat/1.png", "train/cat/notes.txt", "train/dog/1.png", "train/labels.csv", "train/dog/x.pdf")
    assert scan_folder(root).others == ["train/cat/notes.txt", "train/dog/x.pdf", "train/labels.csv"]


def test_12_an_empty_class(tree):
    with pytest.raises(
        BadInput, match="classes without a training image: 'dog', 'fox'; add images or remove"
    ) as caught:
        scan_folder(tree("cat/1.png", "dog/", "fox/notes.txt"))
    assert caught.value.exit_code == BAD_INPUT


def test_08_an_unknown_test_class(tree):
    root = tree("train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dogs/2.png")
    with pytest.raises(BadInput, match=r"class 'dogs' .* did you mean 'dog'\? The training classes are 'cat', 'dog'"):
        scan_folder(root)


def test_08_two_unicode_forms_are_one_class(tree):
    composed, apart = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    assert composed != apart
    root = tree(f"train/{composed}/1.png", "train/tea/1.png", f"test/{apart}/2.png")
    assert list(scan_folder(root).test) == [composed]
    tree(f"train/{apart}/3.png")
    with pytest.raises(BadInput, match="two class folders have the name 'café'"):
        scan_folder(root)


def test_folders_that_hold_no_classes(tree):
    with pytest.raises(BadInput, match="holds no class folder; expected train/CLASS"):
        scan_folder(tree("1.png"))
    with pytest.raises(BadInput, match="holds only the class folder 'cat'"):
        scan_folder(tree("cat/1.png"))


def test_a_test_split_without_training(tree):
    with pytest.raises(BadInput, match="holds test/ with class folders but no train/"):
        scan_folder(tree("test/cat/1.png", "test/dog/1.png"))


@pytest.mark.parametrize("place", ["train", "train/dog", "train/cat/more", "test", "test/cat"])
def test_a_linked_folder_is_refused(tree, tmp_path, place):
    for name in ("cat", "dog"):
        (tmp_path / "private" / name).mkdir(parents=True)
        (tmp_path / "private" / name / "secret.png").touch()
    root = tree("train/cat/1.png", "train/fox/1.png", "test/fox/2.png")
    if place == "train":
        (root / "train").rename(tmp_path / "moved")
    if place == "test":
        (root / "test").rename(tmp_path / "moved")
    (root / place).symlink_to(tmp_path / "private", target_is_directory=True)
    with pytest.raises(BadInput, match=f"{place}: a linked folder; copy it"):
        scan_folder(root)


def test_a_linked_file(tree, tmp_path):
    root = tree("cat/1.png", "dog/1.png")
    (root / "cat" / "2.png").symlink_to(root / "dog" / "1.png")
    assert len(scan_folder(root).train["cat"]) == 2  # within the folder: harmless
    (tmp_path / "secret.png").touch()
    (root / "dog" / "2.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadInput, match=r"dog/2\.png: refused, it is a link that leads outside"):
        scan_folder(root)


def test_the_root_itself_may_be_a_link(tree, tmp_path):
    root = tree("cat/1.png", "dog/1.png")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert scan_folder(tmp_path / "link") == scan_folder(root)


def test_a_pipe_is_no_image(tree):
    root = tree("cat/1.png", "dog/1.png")
    os.mkfifo(root / "cat" / "pipe.png")  # to open one would wait for ever
    found = scan_folder(root)
    assert found.others == ["cat/pipe.png"]
    assert len(found.train["cat"]) == 1


def test_names_that_are_no_text(tree):
    root = tree("cat/1.png", "dog/1.png")
    odd = os.fsdecode(b"x\xff.png")
    (root / "cat" / odd).touch()
    paths = scan_folder(root).train["cat"]
    assert [scan.relative(root, path) for path in paths] == ["cat/1.png", r"cat/x\xff.png"]


def test_limits(tree, monkeypatch):
    root = tree("cat/1.png", "cat/2.png", "dog/a/b/c/1.png")
    monkeypatch.setattr(scan, "COUNT_LIMIT", 1)
    with pytest.raises(BadInput, match="more than 1 images"):
        scan_folder(root)
    monkeypatch.setattr(scan, "COUNT_LIMIT", 10)
    monkeypatch.setattr(scan, "DEPTH_LIMIT", 3)
    with pytest.raises(BadInput, match="dog/a/b/c: folders lie more than 3 deep"):
        scan_folder(root)


def test_the_order_is_that_of_the_names(tree, monkeypatch):
    root = tree("b/2.png", "b/10.png", "a/1.png", "C/1.png")
    listed = os.scandir

    class Reversed:
        def __init__(self, path):
            with listed(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    first = scan_folder(root)
    monkeypatch.setattr(scan.os, "scandir", Reversed)
    second = scan_folder(Path(root))
    assert list(first.train.items()) == list(second.train.items())
    assert [path.name for path in second.train["b"]] == ["10.png", "2.png"]
