import hashlib
import http.client
import io
import os
import urllib.error

import pytest

from tailkeep.data import download as module
from tailkeep.data.cifar import Cifar10
from tailkeep.data.download import download, md5_file
from tailkeep.errors import BadInput

URL = "https://example.org/data.tar.gz"
CONTENT = bytes(range(256)) * 3000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Response(io.BytesIO):
    def __init__(self, data, length=None):
        super().__init__(data)
        self.headers = {} if length is None else {"Content-Length": str(length)}


@pytest.fixture
def serve(monkeypatch):
    """Answer every address with a response, or by raising an error; the list of addresses asked for."""
    asked = []

    def use(answer):
        def open_url(url):
            asked.append(url)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(module, "open_url", open_url)
        return asked

    return use


@pytest.fixture
def target(tmp_path):
    return tmp_path / "downloads" / "data.tar.gz"


def left(target):
    return sorted(target.parent.iterdir()) if target.parent.exists() else []


@pytest.mark.parametrize("length", [None, len(CONTENT)])
def test_a_good_file_is_kept_whole(serve, target, length):
    asked = serve(Response(CONTENT, length))
    assert download(URL, target, MD5, "") == target
    assert target.read_bytes() == CONTENT
    assert left(target) == [target]
    download(URL, target, MD5, "")
    assert asked == [URL]  # once


def test_a_file_appears_by_a_rename_and_not_before(serve, target, monkeypatch):
    serve(Response(CONTENT))
    seen = []

    def replace(source, destination):
        seen.append((source.read_bytes() == CONTENT, source.parent == target.parent, target.exists()))
        os.rename(source, destination)

    monkeypatch.setattr(module.os, "replace", replace)
    download(URL, target, MD5, "")
    assert seen == [(True, True, False)]
    assert target.exists()


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError(URL, 404, "Not Found", None, None),
        TimeoutError("timed out"),
        ConnectionResetError("reset by peer"),
        http.client.BadStatusLine("a proxy's words"),
        ValueError("unknown url type"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_network_says_what_to_do(serve, target, error):
    serve(error)
    with pytest.raises(BadInput, match="Put it there by hand") as caught:
        download(URL, target, MD5, "Put it there by hand.")
    assert f"{URL} cannot be fetched (" in str(caught.value)
    assert left(target) == []


def test_a_connection_that_breaks_off(serve, target):
    class Broken(Response):
        def read(self, size=-1):
            data = super().read(size)
            if not data:
                raise http.client.IncompleteRead(b"")
            return data

    serve(Broken(CONTENT))
    with pytest.raises(BadInput, match=r"cannot be fetched \(IncompleteRead"):
        download(URL, target, MD5, "")
    assert left(target) == []


def test_fewer_bytes_than_announced(serve, target):
    serve(Response(CONTENT[:1000], len(CONTENT)))
    with pytest.raises(BadInput, match=f"1000 of {len(CONTENT)} bytes came"):
        download(URL, target, MD5, "")
    assert left(target) == []


def test_a_wrong_checksum_is_refused_and_not_kept(serve, target):
    serve(Response(CONTENT + b"!"))
    with pytest.raises(BadInput, match=f"the official one is {MD5}; not kept"):
        download(URL, target, MD5, "")
    assert left(target) == []


def test_a_file_without_end(serve, target, monkeypatch):
    monkeypatch.setattr(module, "SIZE_LIMIT", 300_000)
    serve(Response(CONTENT))
    with pytest.raises(BadInput, match="refused, it gives more than"):
        download(URL, target, MD5, "")
    assert left(target) == []


def test_an_interrupted_download_leaves_nothing(serve, target):
    class Interrupted(Response):
        def read(self, size=-1):
            raise KeyboardInterrupt

    serve(Interrupted(CONTENT))
    with pytest.raises(KeyboardInterrupt):
        download(URL, target, MD5, "")
    assert left(target) == []


def test_another_file_in_its_place_is_not_overwritten(serve, target):
    asked = serve(Response(CONTENT))
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(BadInput, match="its checksum is not the official one; delete the file"):
        download(URL, target, MD5, "")
    assert target.read_bytes() == b"mine"
    assert asked == []


def test_cifar_without_a_root_is_fetched_into_the_cache(serve, tmp_path, monkeypatch):
    monkeypatch.delenv("TAILKEEP_DATA_ROOT", raising=False)
    asked = serve(urllib.error.URLError("no network"))
    with pytest.raises(BadInput, match="Where there is no network, fetch") as caught:
        Cifar10().load(cache=tmp_path)
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    for word in ("--data-root", "TAILKEEP_DATA_ROOT", "cifar-10-batches-py"):
        assert word in str(caught.value)


def test_md5_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert md5_file(tmp_path / "f") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321
