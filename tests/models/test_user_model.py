import sys
import textwrap

import pytest
import torch
from torch import nn

from tailkeep.errors import BadInput
from tailkeep.models.user import ModelCode, UserModel, build_user, load_factory

SHAPE = (3, 8, 8)
LINEAR = """
    from torch import nn
    def make(num_classes, image_shape):
        c, h, w = image_shape
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, num_classes))
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture(autouse=True)
def _own_import_state(monkeypatch):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def code_of(factory):
    return ModelCode(factory, "0" * 64, "here:factory")


def test_a_spec_names_no_code():
    assert UserModel().plain() == {"kind": "user", "name": "user"}
    assert UserModel(name="mine").label == "mine"
    with pytest.raises(ValueError, match="Extra inputs"):
        UserModel(code="os:system")


def test_a_file(tmp_path):
    path = write(tmp_path / "net.py", LINEAR)
    code = load_factory(f"{path}:make")
    assert code.name == f"{path}:make"
    assert len(code.source_hash) == 64
    assert build_user(code, 5, SHAPE)(torch.zeros(2, *SHAPE)).shape == (2, 5)


def test_a_module_in_the_current_folder(tmp_path, monkeypatch):
    write(tmp_path / "some_users_net.py", LINEAR)
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_user(load_factory("some_users_net:make"), 5, SHAPE), nn.Module)


def test_a_class_is_a_factory(tmp_path):
    path = write(
        tmp_path / "net.py",
        """
        from torch import nn
        class Net(nn.Module):
            def __init__(self, in_channels, num_classes):
                super().__init__()
                self.conv = nn.Conv2d(in_channels, num_classes, 3)
        """,
    )
    model = build_user(load_factory(f"{path}:Net"), 4, SHAPE)
    assert model.conv.weight.shape == (4, 3, 3, 3)


def test_the_file_may_import_its_neighbours_even_late(tmp_path):
    write(tmp_path / "neighbour_blocks.py", "from torch import nn\ndef head(n):\n    return nn.LazyLinear(n)\n")
    path = write(
        tmp_path / "net.py",
        """
        def make(num_classes):
            from neighbour_blocks import head
            return head(num_classes)
        """,
    )
    assert isinstance(build_user(load_factory(f"{path}:make"), 4, SHAPE), nn.Module)


def test_source_hash_follows_what_the_code_imports(tmp_path):
    text = "from helper_one import size\ndef make(num_classes):\n    return size\n"
    path = write(tmp_path / "net.py", text)
    write(tmp_path / "helper_one.py", "import helper_two\nsize = 1\n")
    write(tmp_path / "helper_two.py", "x = 1\n")
    write(tmp_path / "unrelated.py", "x = 1\n")
    first = load_factory(f"{path}:make").source_hash
    write(tmp_path / "unrelated.py", "x = 2\n")
    assert load_factory(f"{path}:make").source_hash == first
    write(tmp_path / "helper_two.py", "x = 2\n")
    second = load_factory(f"{path}:make").source_hash
    assert second != first
    write(tmp_path / "net.py", text + "# changed\n")
    assert load_factory(f"{path}:make").source_hash not in (first, second)


def test_source_hash_does_not_know_the_folder_or_the_file_name(tmp_path):
    one = load_factory(f"{write(tmp_path / 'a' / 'net.py', LINEAR)}:make")
    two = load_factory(f"{write(tmp_path / 'b' / 'other.py', LINEAR)}:make")
    assert one.source_hash == two.source_hash


def test_source_hash_of_a_package_follows_relative_imports(tmp_path, monkeypatch):
    write(tmp_path / "users_package" / "__init__.py", "")
    write(tmp_path / "users_package" / "sub" / "__init__.py", "")
    write(tmp_path / "users_package" / "sub" / "net.py", "from ..blocks import x\ndef make():\n    return x\n")
    blocks = write(tmp_path / "users_package" / "blocks.py", "x = 1\n")
    monkeypatch.chdir(tmp_path)
    first = load_factory("users_package.sub.net:make").source_hash
    blocks.write_text("x = 2\n")
    assert load_factory("users_package.sub.net:make").source_hash != first


@pytest.mark.parametrize("text", ["net", "net:", ":make", "net.py", "net:make()", "net:a.b", ""])
def test_a_text_without_a_factory_is_refused(text):
    with pytest.raises(BadInput, match=r"write module:factory or path/to/file\.py:factory"):
        load_factory(text)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "net.py", LINEAR + "\n    number = 3\n")
    with pytest.raises(BadInput, match="there is no file"):
        load_factory("absent.py:make")
    with pytest.raises(BadInput, match="no module absent_module here"):
        load_factory("absent_module:make")
    with pytest.raises(BadInput, match=r"has no mak; did you mean .*:make\?"):
        load_factory(f"{path}:mak")
    with pytest.raises(BadInput, match="number is a int, not a function or a class"):
        load_factory(f"{path}:number")


def test_a_file_that_fails_to_import_says_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "broken_net.py", "x = 1\nx / 0\n")
    with pytest.raises(BadInput, match=r"broken_net\.py:2: ZeroDivisionError"):
        load_factory(f"{path}:make")
    with pytest.raises(BadInput, match=r"broken_net\.py:2: ZeroDivisionError"):
        load_factory("broken_net:make")
    write(tmp_path / "needs_more.py", "import a_library_that_is_absent\n")
    with pytest.raises(BadInput, match=r"fails to import.*a_library_that_is_absent"):
        load_factory("needs_more:make")


def test_the_factory_gets_what_it_takes():
    seen = {}

    def only_classes(num_classes):
        seen["one"] = num_classes
        return nn.Identity()

    def everything(*, in_channels, image_shape, num_classes, depth=3):
        seen["all"] = (in_channels, image_shape, num_classes, depth)
        return nn.Identity()

    def open_ended(width=2, **kwargs):
        seen["open"] = kwargs
        return nn.Identity()

    for factory in (only_classes, everything, open_ended, nn.Identity):
        build_user(code_of(factory), 5, SHAPE)
    assert seen == {"one": 5, "all": (3, SHAPE, 5, 3), "open": {"num_classes": 5}}


def test_a_factory_that_needs_more_is_refused_with_what_it_is_offered():
    with pytest.raises(BadInput, match=r"needs depth, width; it is offered num_classes, image_shape"):
        build_user(code_of(lambda num_classes, depth, width: None), 5, SHAPE)


def test_a_factory_that_fails_or_returns_something_else():
    def fails():
        raise RuntimeError("no such layer")

    with pytest.raises(BadInput, match=r"the factory fails: .*RuntimeError: no such layer"):
        build_user(code_of(fails), 5, SHAPE)
    with pytest.raises(BadInput, match=r"returned a dict, not a torch\.nn\.Module"):
        build_user(code_of(lambda: {}), 5, SHAPE)
