import numpy as np
import pytest

from tailkeep.data.checks import check_classes, check_overlap, listed
from tailkeep.errors import BadInput


def test_listed():
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_classes_with_too_few_images_are_all_named():
    labels = np.array([0, 0, 0, 2, 2, 4], dtype=np.int64)
    check_classes("here", "test", np.array([0, 1]), ("a", "b"))
    with pytest.raises(
        BadInput, match=r"here: every class needs at least 2 test images; 'b' has 0, 'd' has 0, 'e' has 1$"
    ):
        check_classes("here", "test", labels, "abcde", 2)


def test_13_overlap_lists_the_first_pairs_and_counts_the_images(rng):
    train, test = (rng.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8) for n in (10, 9))
    ids = np.array([f"train/{n}" for n in range(10)]), np.array([f"test/{n}" for n in range(9)])
    assert check_overlap("here", (train, ids[0]), (test, ids[1]), False) == ()
    test[:7] = train[:7]
    train[9] = train[0]  # two training images for one test image: still one test image
    with pytest.raises(BadInput, match=r"here: 7 test images .*train/0 = test/0, train/9 = test/0, .* and 3 more"):
        check_overlap("here", (train, ids[0]), (test, ids[1]), False)
    (note,) = check_overlap("here", (train, ids[0]), (test, ids[1]), True)
    assert note.startswith("overlap: 7 test images have the same pixels")
