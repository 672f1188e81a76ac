"""Bytes by name on an object store, through fsspec: the only file that knows fsspec and s3fs.

What leases and commits rest on is that a name can be created once, and replaced only where it still is what was read.
S3 and its kin do both on the server (``If-None-Match``, ``If-Match``). Through the generic class the second is a look
and then a write, which a slower writer may lose.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tailkeep.errors import BadInput, MissingExtra, TailkeepError
from tailkeep.study.limits import DISK, StorageFailed

T = TypeVar("T")
PAUSES = (1.0, 4.0)
"""Seconds before each further try of a request that failed for want of a network; the client's own tries come first."""
LIBRARIES = {"s3": ("s3fs", "tailkeep[s3]"), "s3a": ("s3fs", "tailkeep[s3]"), "gs": ("gcsfs", "gcsfs")}
S3_SETTINGS = {"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 4, "mode": "standard"}}
ABSENT = ("NoSuchKey", "404", "NotFound")
REFUSED = ("PreconditionFailed", "412")
NO_BUCKET = ("NoSuchBucket", "InvalidBucketName")
NO_ACCESS = ("AccessDenied", "AllAccessDisabled", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound")


@dataclass(frozen=True)
class Entry:
    """An object in a listing. ``version`` changes whenever its bytes do."""

    bytes: int
    version: str


def open_objects(url: str) -> Objects:
    """Return the objects below a URL; asks nothing of the server yet. Raises ``MissingExtra`` and ``BadInput``."""
    scheme, _, place = url.partition("://")
    scheme = scheme.lower()
    if not place.strip("/") and scheme != "memory":
        raise BadInput(f"--store {url}: names no bucket; write {scheme}://BUCKET/PREFIX")
    url = f"{scheme}://{place}"
    library, package = LIBRARIES.get(scheme, ("fsspec", "fsspec"))
    try:
        importlib.import_module(library)
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        raise MissingExtra(f"--store {url}: needs {library}: pip install '{package}'") from error
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if library == "s3fs":
        options |= {} if "config_kwargs" in fsspec.config.conf.get("s3", {}) else {"config_kwargs": S3_SETTINGS}
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:  # a protocol that is not known, or whose own library is missing
        raise BadInput(f"--store {url}: {error}") from error
    _hush(fs)
    fs.retries = 2  # of s3fs itself, on top of its client's: else a silent server is waited for by the hour
    write = getattr(fs, "_pipe_file", fs.pipe_file)
    if "mode" not in inspect.signature(write).parameters or write.__module__ in ("fsspec.spec", "fsspec.asyn"):
        raise BadInput(
            f"--store {url}: fsspec's {type(fs).__name__} cannot create an object only where there is none, which a "
            "store that processes share rests on; use s3://, gs:// or a folder"
        )
    return (S3Objects if library == "s3fs" else Objects)(url, fs, root.rstrip("/"))


def _hush(fs: Any) -> None:
    """Keep from stderr what the client's own tasks leave behind when a connection breaks: the request that failed says
    it, in ``StorageFailed``.
    """
    loop = getattr(fs, "loop", None)
    if loop is None or getattr(fs, "asynchronous", False):
        return

    def handle(loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("aiohttp", "botocore")):
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


class Objects:
    """Objects by name, a path relative to the URL. All raise ``StorageFailed`` where the store cannot be used."""

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self.url, self.fs, self.root = url, fs, root

    @property
    def identity(self) -> str:
        """What tells this place from one of the same URL elsewhere: an endpoint of the user's own."""
        return self.url

    def path(self, name: str) -> str:
        """Return the path of an object as the file system names it."""
        return f"{self.root}/{name}"

    def check(self) -> None:
        """Ask the server once; raises ``BadInput`` where the place cannot be reached, read or found."""
        try:
            self._probe()
        except Exception as error:
            raise BadInput(f"--store {self.url}: {_reason(error)[1]}") from error

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and version; None where there is none."""

        def read() -> tuple[bytes, str]:
            version = _version(self.fs.info(self.path(name)))  # before the bytes: at worst it is older than they are
            return bytes(self.fs.cat_file(self.path(name))), version

        try:
            return self._try(name, read)
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> str | None:
        """Create an object; return its version, None (and change nothing) where there is one.

        A request whose answer was lost is sent again, so None may also mean that this very call created it.
        """

        def write() -> str:
            out = self.fs.pipe_file(self.path(name), data, mode="create")
            return self._written(name, out)

        try:
            return self._try(name, write)
        except FileExistsError:
            return None

    def replace(self, name: str, data: bytes, version: str) -> str | None:
        """Replace an object that still has this version; return the new one, None (and change nothing) if it has not.

        None may also mean that this very call replaced it, where an answer was lost.
        """
        found = self.get(name)
        return self.put(name, data) if found is not None and found[1] == version else None

    def put(self, name: str, data: bytes) -> str:
        """Write an object, whatever is there; return its version."""
        return self._try(name, lambda: self._written(name, self.fs.pipe_file(self.path(name), data)))

    def upload(self, name: str, path: Path) -> None:
        """Write a file as an object. Raises ``OSError`` where the file cannot be read."""
        self._try(name, lambda: self.fs.put_file(str(path), self.path(name)))

    def download(self, name: str, path: Path) -> bool:
        """Write an object as a file; return False where there is none. Raises ``OSError`` where the disk fails."""
        try:
            self._try(name, lambda: self.fs.get_file(self.path(name), str(path)))
            return True
        except FileNotFoundError:
            return False

    def delete(self, name: str, version: str | None = None) -> bool:
        """Remove an object, with ``version`` only that one; return False where there was another, or none."""
        if version is not None:
            found = self.get(name)
            if found is None or found[1] != version:
                return False
        try:
            self._try(name, lambda: self.fs.rm_file(self.path(name)))
            return True
        except FileNotFoundError:
            return False

    def listed(self, prefix: str = "") -> dict[str, Entry]:
        """Return all objects whose folder is ``prefix`` or below it, by name. One request a thousand objects."""
        place = f"{self.root}/{prefix}".rstrip("/")
        try:
            found = self._try(prefix, lambda: self.fs.find(place, detail=True))
        except FileNotFoundError:
            return {}
        start = f"{self.root}/"
        return {
            path.removeprefix(start): Entry(int(facts["size"]), _version(facts))
            for path, facts in sorted(found.items())
            if path.startswith(f"{place}/")
        }

    def _probe(self) -> None:
        self.fs.exists(self.root)

    def _written(self, name: str, out: Any) -> str:
        """The version of what was just written, from the answer where that says it."""
        return _version(self.fs.info(self.path(name)))

    def _try(self, name: str, call: Callable[[], T]) -> T:
        """Call, and call again where the network failed."""
        for pause in (*PAUSES, None):
            try:
                with self._in_words(name):
                    return call()
            except StorageFailed as error:
                if error.reason != "unreachable" or pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def _in_words(self, name: str) -> Iterator[None]:
        """Turn what a client raises into ``StorageFailed``; what is said of a file or of a name passes."""
        try:
            yield
        except TailkeepError:
            raise
        except Exception as error:
            code = _code(error)
            if code in REFUSED:
                raise FileExistsError(errno.EEXIST, "changed", name) from error
            if code in ABSENT or (isinstance(error, FileNotFoundError) and code not in NO_BUCKET):
                raise FileNotFoundError(errno.ENOENT, "no such object", name) from error
            if isinstance(error, FileExistsError):
                raise
            if isinstance(error, OSError) and error.errno in DISK and not code:  # the disk of the cache
                raise
            reason, words = _reason(error)
            raise StorageFailed(
                reason,
                f"{reason}: {self.url}/{name}: {words}. The run stopped; what was finished is stored, nothing is half "
                "stored, and the same command goes on where it stopped",
            ) from error


class S3Objects(Objects):
    """Objects on S3, or on a server that speaks as it does: conditions are checked by the server."""

    @property
    def identity(self) -> str:
        """The URL and the endpoint."""
        import os

        named = [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")]
        return " ".join([self.url, str(self.fs.endpoint_url), str(self.fs.client_kwargs), *named])

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and version, in one request; None where there is none."""
        from fsspec.asyn import sync

        bucket, key = self._split(name)

        async def read() -> tuple[bytes, str]:
            answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
            try:
                return await answer["Body"].read(), str(answer["ETag"])
            finally:
                answer["Body"].close()

        try:
            found: tuple[bytes, str] = self._try(name, lambda: sync(self.fs.loop, read))
            return found
        except FileNotFoundError:
            return None

    def replace(self, name: str, data: bytes, version: str) -> str | None:
        """Replace an object that still has this version."""

        def write() -> str:
            return self._written(name, self.fs.pipe_file(self.path(name), data, IfMatch=version))

        try:
            return self._try(name, write)
        except (FileExistsError, FileNotFoundError):
            return None

    def delete(self, name: str, version: str | None = None) -> bool:
        """Remove an object. A server that does not know conditions on this removes whatever is there."""
        bucket, key = self._split(name)
        condition = {} if version is None else {"IfMatch": version}
        try:
            self._try(name, lambda: self._ask("delete_object", Bucket=bucket, Key=key, **condition))
            return True
        except (FileExistsError, FileNotFoundError):
            return False

    def listed(self, prefix: str = "") -> dict[str, Entry]:
        """Return all objects whose folder is ``prefix`` or below it, by name. One request a thousand objects."""
        bucket, root = self._split("")
        place = f"{root}{prefix}/".lstrip("/") if prefix else root
        found: dict[str, Entry] = {}
        more: dict[str, str] = {}
        while True:
            page = self._try(prefix, lambda: self._ask("list_objects_v2", Bucket=bucket, Prefix=place, **more))  # noqa: B023
            for facts in page.get("Contents", ()):
                found[facts["Key"].removeprefix(root)] = Entry(int(facts["Size"]), str(facts["ETag"]))
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _probe(self) -> None:
        bucket, key = self._split("")
        self._ask("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)

    def _ask(self, method: str, **given: Any) -> Any:
        from fsspec.asyn import sync

        return sync(self.fs.loop, self.fs._call_s3, method, **given)

    def _written(self, name: str, out: Any) -> str:
        return str(out["ETag"])

    def _split(self, name: str) -> tuple[str, str]:
        bucket, key, _ = self.fs.split_path(self.path(name))
        return bucket, key


def _version(facts: dict[str, Any]) -> str:
    """What of a listing's facts changes with the bytes."""
    for name in ("ETag", "etag", "generation", "created", "mtime", "LastModified"):
        if facts.get(name) is not None:
            return str(facts[name])
    return str(facts.get("size"))


def _code(error: BaseException) -> str:
    """Return the server's word for an error; "" where it is no answer of a server."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
    return ""


def _reason(error: BaseException) -> tuple[str, str]:
    """Return the reason of a ``StorageFailed`` and the words for it."""
    code, text = _code(error), str(error) or type(error).__name__
    if code in NO_BUCKET:
        return "no_access", "there is no such bucket; make it, or give another --store"
    if type(error).__name__ in NO_CREDENTIALS:
        return "no_access", f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if code in NO_ACCESS or isinstance(error, PermissionError):
        return "no_access", f"the server refuses access ({text}); check the credentials and what they may do"
    return "unreachable", f"the store cannot be reached ({type(error).__name__}: {text})"
