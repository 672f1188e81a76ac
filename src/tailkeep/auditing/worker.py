"""A process of its own for work that may crash, hang or eat the memory: started when asked, and again after a death.

Requests and replies are a JSON header and raw bytes over two pipes. Nothing is unpickled on either side, since a
hostile model file may have taken over the process that answers.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

HEAD = struct.Struct("<IQ")
"""Sizes in bytes of a message's JSON header and of what follows it."""
HEADER_LIMIT = 1 << 20
START_LIMIT_S = 120.0
"""For starting Python and importing, which take seconds on a busy machine and are no fault of a request's."""
_GRACE_S = 5.0
FORBIDDEN = ("ORT_LOAD_CONFIG_FROM_MODEL",)
"""Environment variables that would let a model file set its runtime's options."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import importlib; "
    "importlib.import_module(sys.argv[2]).serve(int(sys.argv[3]))"
)


class WorkerDied(Exception):
    """The process gave no answer. ``reason`` is "crash" or "hang"; the text says how it ended."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Worker:
    """A child that answers requests with ``module.serve(memory)``; ``memory`` bytes bound it, 0 leaves it unbounded.

    ``serve`` writes one message when it is ready, and then one for each that it reads.
    Not the spawn of multiprocessing, which would run a script of the user's a second time. Use it in a ``with`` block:
    the process is killed at its end. ``starts`` counts the processes.
    """

    def __init__(self, module: str, memory: int = 0) -> None:
        self.module, self.memory, self.starts = module, memory, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            _kill(self._process)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._errors):
                assert pipe is not None
                with suppress(OSError):  # what was not sent to the dead
                    pipe.close()
        self._process = self._errors = None

    def ask(
        self, request: dict[str, Any], payload: bytes | memoryview = b"", *, limit_s: float, reply_limit: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and return the reply's header and its at most ``reply_limit`` bytes.

        Raises ``WorkerDied`` where the process ends, breaks the protocol, or does not answer in ``limit_s`` seconds
        (it is killed then). The next request starts a new one, which knows nothing of the earlier requests.
        """
        if self._process is None:
            self._start()
            self._exchange(None, b"", START_LIMIT_S, 0)
        return self._exchange(request, payload, limit_s, reply_limit)

    def _exchange(
        self, request: dict[str, Any] | None, payload: bytes | memoryview, limit_s: float, reply_limit: int
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request, if there is one, and read the next message."""
        process, expired = self._process, threading.Event()
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None

        def expire() -> None:
            expired.set()
            _kill(process)

        timer = threading.Timer(limit_s, expire)
        timer.daemon = True
        timer.start()
        try:
            if request is not None:
                write_message(process.stdin, request, payload)
            reply, data = read_message(process.stdout, reply_limit)
        except (OSError, EOFError, ValueError) as error:
            timer.cancel()
            raise self._bury(expired.is_set(), limit_s, error) from error
        except BaseException:  # interrupted halfway: this process and we no longer speak of the same request
            timer.cancel()
            self.close()
            raise
        timer.cancel()
        if expired.is_set():
            raise self._bury(True, limit_s, None)
        return reply, data

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in FORBIDDEN}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        # Isolated, with this process's own search path: a file of the working folder must not pose as a library.
        command = [
            sys.executable,
            "-I",
            "-c",
            _START,
            json.dumps([str(entry) for entry in sys.path]),
            self.module,
            str(self.memory),
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # so that it is killed with whatever it has started
        )
        self.starts += 1

    def _bury(self, expired: bool, limit_s: float, error: Exception | None) -> WorkerDied:
        """Return what to raise about a process that gave no answer, and forget it."""
        assert self._process is not None
        try:
            if isinstance(error, ValueError):  # it lives, and speaks nonsense
                _kill(self._process)
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:  # it has closed its pipe and lives on
            _kill(self._process)
            code = self._process.wait()
        last = self._last_words()
        self.close()
        if expired:
            return WorkerDied("hang", f"no answer within {limit_s:g} s")
        if isinstance(error, ValueError):
            return WorkerDied("crash", f"it broke the protocol ({error})")
        if code < 0 and code == -getattr(signal, "SIGKILL", 0):
            return WorkerDied("crash", "it was killed from outside, most likely for want of memory")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerDied("crash", f"{how}{f', {last}' if last else ''}")

    def _last_words(self) -> str:
        """Return the last line that the process wrote to its standard error, as printable text."""
        assert self._errors is not None
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(size - 1000, 0))
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        return printable(next((line.strip() for line in reversed(lines) if line.strip()), ""))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was not waited for yet, and its group, whose members would keep its pipes open."""
    if process.returncode is None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def printable(text: str, limit: int = 300) -> str:
    """Return a stranger's text on one line, without characters that steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)[:limit]


def write_message(stream: IO[bytes], header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one message: the sizes, the JSON header, the bytes."""
    text = json.dumps(header).encode("ascii")
    view = memoryview(payload).cast("B")
    stream.write(HEAD.pack(len(text), len(view)) + text)
    stream.write(view)
    stream.flush()


def read_message(stream: IO[bytes], limit: int) -> tuple[dict[str, Any], bytes]:
    """Read one message. Raises ``EOFError`` where the stream ends, ``ValueError`` where it is too long or none."""
    header_size, size = HEAD.unpack(_exactly(stream, HEAD.size))
    if header_size > HEADER_LIMIT or size > limit:
        raise ValueError(f"a message of {header_size} and {size} bytes")
    try:
        header = json.loads(_exactly(stream, header_size))
    except RecursionError as error:
        raise ValueError("a header of lists within lists") from error
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    return header, _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data
