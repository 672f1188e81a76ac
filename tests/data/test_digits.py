import numpy as np
import pytest

from tailkeep.data.digits import Digits
from tailkeep.data.subset import class_counts, overlap
from tailkeep.errors import BadInput


@pytest.fixture(scope="module")
def digits():
    return Digits().load()


def test_every_image_is_in_one_split(digits):
    assert digits.class_names == tuple("0123456789")
    assert digits.image_shape == (1, 8, 8)
    assert class_counts(digits.test.labels, 10) == (50,) * 10
    assert len(digits.train) + len(digits.test) == 1797
    assert len({*digits.train.ids.tolist(), *digits.test.ids.tolist()}) == 1797
    assert overlap(digits.train.images, digits.test.images) == []
    # The presets' n_max of 120 must fit the poorest class.
    assert min(class_counts(digits.train.labels, 10)) >= 120


def test_pixels_use_the_whole_range(digits):
    from sklearn.datasets import load_digits

    assert digits.train.images.dtype == np.uint8
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    bunch = load_digits()
    for row in (0, 600, 1200):
        index = int(str(digits.train.ids[row]).removeprefix("digits/"))
        assert digits.train.labels[row] == bunch.target[index]
        assert np.abs(digits.train.images[row, 0] / 255 - bunch.images[index] / 16).max() <= 0.5 / 255


def test_the_content_hashes_are_pinned(digits):
    # Stored studies rest on these: another split or scaling would be other data under the same name.
    assert digits.train.digest[:16] == "ef59d273d47c94f6"
    assert digits.test.digest[:16] == "1a2c7cdf055f333c"


def test_another_test_split():
    data = Digits(test_per_class=10).load()
    assert class_counts(data.test.labels, 10) == (10,) * 10
    with pytest.raises(BadInput, match="test_per_class 174 must be below 174, the smallest class"):
        Digits(test_per_class=174).load()
