"""Hugging Face datasets on disk: saved folders, Parquet files, images as bytes or paths, and what can be wrong."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tailkeep.auditing.images import read_images
from tailkeep.errors import BadInput, MissingExtra

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "ant"], "_type": "ClassLabel"}}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(folder, index):
    path = folder / f"{index}.png"
    Image.fromarray(IMAGES[index]).save(path)
    return path.read_bytes()


def table(rows, features=FEATURES, **columns):
    found = pa.table({"image": pa.array(rows, type=IMAGE), **columns})
    if features is not None:
        found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return found


def inside(folder, indices=range(6)):
    return [{"bytes": encoded(folder, index), "path": f"{index}.png"} for index in indices]


def save_to_disk(folder, tables):
    """The layout of ``Dataset.save_to_disk``: a stream of Arrow batches a shard."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05d}-of-{len(tables):05d}.arrow" for index in range(len(tables))]
    for name, part in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


@pytest.fixture
def saved(tmp_path):
    rows = inside(tmp_path)
    parts = [table(rows[:4], label=[0, 1, 1, 0]), table(rows[4:], label=[1, 0])]
    save_to_disk(tmp_path / "saved" / "test", parts)
    save_to_disk(tmp_path / "saved" / "train", [table(rows[:2], label=[0, 1])])
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return tmp_path / "saved"


def test_a_saved_dataset(saved):
    found = read_images(saved)
    assert (found.form, found.class_names, found.labels.tolist()) == ("huggingface", ("cat", "ant"), [0, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.images, IMAGES.transpose(0, 3, 1, 2))
    assert found.ids[4] == "test/4"
    assert len(read_images(saved, split="train")) == 2
    assert read_images(saved / "test").sha256 == found.sha256
    assert read_images(saved, class_names=["ant", "cat"]).labels.tolist() == [1, 0, 0, 1, 0, 1]
    with pytest.raises(BadInput, match="there is no split 'val'; it has train, test: choose one"):
        read_images(saved, split="val")


def test_parquet_files_of_a_dataset(tmp_path):
    rows = inside(tmp_path)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name, part in {"test-00000-of-00002": slice(0, 4), "test-00001-of-00002": slice(4, 6)}.items():
        labels = [0, 1, 1, 0, 1, 0][part]
        pq.write_table(table(rows[part], label=labels), tmp_path / "hub" / "data" / f"{name}.parquet")
    pq.write_table(table(rows[:1], label=[0]), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    found = read_images(tmp_path / "hub")
    np.testing.assert_array_equal(found.images, IMAGES.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1, 1, 0, 1, 0]
    with pytest.raises(BadInput, match="no file is of the split 'val'; there are files of test, train: choose one"):
        read_images(tmp_path / "hub", split="val")
    single = read_images(tmp_path / "hub" / "data" / "test-00001-of-00002.parquet")
    assert single.labels.tolist() == [1, 0]


def test_images_by_path_lie_below_the_dataset(tmp_path):
    rows = inside(tmp_path)
    by_path = [{"bytes": None, "path": row["path"]} for row in rows]
    pq.write_table(table(by_path, label=[0, 1] * 3), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_images(tmp_path / "a.parquet").images, IMAGES.transpose(0, 3, 1, 2))
    absolute = [{"bytes": None, "path": str(tmp_path / row["path"])} for row in rows]
    pq.write_table(table(absolute, label=[0, 1] * 3), tmp_path / "a.parquet")
    assert len(read_images(tmp_path / "a.parquet")) == 6


@pytest.mark.parametrize("name", ["../0.png", "{above}/0.png", "link.png", "a\0b", "x" * 5000])
def test_images_by_path_do_not_leave_the_dataset(tmp_path, name):
    inside(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "0.png")
    path = {"bytes": None, "path": name.format(above=tmp_path)}
    pq.write_table(table([path] * 2, label=[0, 1]), tmp_path / "set" / "a.parquet")
    with pytest.raises(BadInput, match=r"stored as a path alone.*leads outside.*images inside|damaged images"):
        read_images(tmp_path / "set" / "a.parquet")


def test_damaged_and_missing_images_of_a_dataset_are_counted(tmp_path):
    rows = inside(tmp_path)
    rows[1]["bytes"] = rows[1]["bytes"][:60]
    rows[2] = None
    rows[3] = {"bytes": None, "path": "absent.png"}
    pq.write_table(table(rows, label=[0, 1] * 3), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"3 damaged images, and 2 are allowed: row 1 \("):
        read_images(tmp_path / "a.parquet", allow_bad=2)
    found = read_images(tmp_path / "a.parquet", allow_bad=3)
    assert found.ids.tolist() == ["test/0", "test/4", "test/5"]
    assert found.labels.tolist() == [0, 0, 1]


def test_labels_as_text_and_columns_by_their_form(tmp_path):
    plain = table(inside(tmp_path), features=None, label=["dog", "ant", "dog", "ant", "ant", "dog"])
    pq.write_table(plain, tmp_path / "a.parquet")
    found = read_images(tmp_path / "a.parquet")
    assert (found.class_names, found.labels.tolist()) == (("ant", "dog"), [1, 0, 1, 0, 0, 1])


def test_several_columns_could_be_the_label(tmp_path):
    kind = {"names": ["a", "b"], "_type": "ClassLabel"}
    two = table(
        inside(tmp_path), {"image": {"_type": "Image"}, "fine": kind, "coarse": kind}, fine=[0, 1] * 3, coarse=[1] * 6
    )  # fmt: skip
    pq.write_table(two, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"several columns could be the label: fine, coarse; name it \(label column\)"):
        read_images(tmp_path / "a.parquet")
    assert read_images(tmp_path / "a.parquet", label_column="fine").labels.tolist() == [0, 1] * 3
    with pytest.raises(BadInput, match="there is no column 'x'; it has image, fine, coarse"):
        read_images(tmp_path / "a.parquet", label_column="x")


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({}, "no column is the label"),
        ({"label": [0, 1, 0, 1, 0, -1]}, "label 5 is -1.*hidden test set"),
        ({"label": [0, 1, 0, 1, 0, 2]}, "label 5 is 2, and there are 2 classes"),
        ({"label": [0, 1, None, 1, 0, 1]}, "column 'label': row 2 is missing; labels are whole numbers or class names"),
        ({"label": [0.5] * 6}, "column 'label': row 0 is a float"),
    ],
)
def test_labels_of_a_dataset_that_cannot_be_used(tmp_path, columns, text):
    pq.write_table(table(inside(tmp_path), **columns), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=text):
        read_images(tmp_path / "a.parquet")


def test_an_image_column_of_numbers(tmp_path):
    pq.write_table(pa.table({"image": [[1, 2], [3, 4]], "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="no column is the image; name it"):
        read_images(tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="row 0: the image is a list, not an image file's bytes or path"):
        read_images(tmp_path / "a.parquet", image_column="image")


def damaged_shard(folder):
    path = folder / "test" / "data-00001-of-00002.arrow"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def offsets_beyond_the_file(folder):
    # What pyarrow does not look at on its own: offsets that point outside of the buffer.
    path = folder / "test" / "data-00000-of-00002.arrow"
    data = path.read_bytes()
    end = np.cumsum([len(encoded(folder.parent, index)) for index in range(2)]).astype("<i4")
    offsets = np.array([0, *end], dtype="<i4").tobytes()
    assert offsets in data
    path.write_bytes(data.replace(offsets, np.array([0, end[0], 2**30], dtype="<i4").tobytes(), 1))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (damaged_shard, "data-00001-of-00002.arrow: .*cannot be read|not readable as arrow"),
        (offsets_beyond_the_file, "data-00000-of-00002.arrow: column 'image' cannot be read"),
        (lambda root: (root / "test" / "data-00001-of-00002.arrow").unlink(), "these files are missing: data-00001"),
        (lambda root: (root / "test" / "state.json").write_text("{}"), "does not list the data files"),
        (lambda root: (root / "test" / "state.json").write_text("{"), "not readable as JSON"),
        (lambda root: (root / "dataset_dict.json").write_text("[1]"), "there is no split 'test'; it has none"),
        (
            lambda root: (root / "test" / "state.json").write_text('{"_data_files": [{"filename": "../../0.png"}]}'),
            "leads outside",
        ),
        (
            lambda root: (root / "test" / "state.json").write_text(
                '{"_data_files": [{"filename": "x"}], "_indices_data_files": [{"filename": "y"}]}'
            ),
            "keeps its rows' order apart; call flatten_indices",
        ),
    ],
)
def test_a_saved_dataset_that_is_damaged(saved, damage, text):
    damage(saved)
    with pytest.raises(BadInput, match=text):
        read_images(saved)


def test_a_folder_that_holds_no_dataset(tmp_path):
    with pytest.raises(BadInput, match=r"holds neither state.json nor dataset_dict.json"):
        read_images(tmp_path, form="huggingface")


def test_a_missing_pyarrow_says_how_to_install_it(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[parquet\]'"):
        read_images(saved)
