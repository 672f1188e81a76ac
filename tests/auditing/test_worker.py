"""A child that crashes, hangs, prints or speaks nonsense: told in words, and a new one answers the next request."""

import sys
import textwrap
import time

import pytest

from tailkeep.auditing.worker import Worker, WorkerDied, printable

CHILD = """
import os, signal, struct, sys, time

def serve(memory):
    import tailkeep.auditing.worker as worker
    out = os.fdopen(os.dup(1), "wb")
    worker.write_message(out, {"ready": True})
    while True:
        try:
            request, payload = worker.read_message(sys.stdin.buffer, 1 << 20)
        except EOFError:
            return
        do = request["do"]
        if do == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif do == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif do == "exit":
            print("the \\x1b[2Jlast words", file=sys.stderr, flush=True)
            os._exit(3)
        elif do == "hang":
            time.sleep(600)
        elif do == "fork":
            os.fork()  # the copy keeps the pipes open
            time.sleep(600)
        elif do == "mute":
            out.close()
            os.close(1)
            time.sleep(600)
        elif do == "garbage":
            out.write(b"no message at all, but long enough to be read")
            out.flush()
        elif do == "deep":
            text = b"[" * 100_000
            out.write(worker.HEAD.pack(len(text), 0) + text)
            out.flush()
        elif do == "environment":
            worker.write_message(out, {"names": sorted(os.environ)})
        else:
            worker.write_message(out, {"memory": memory, "pid": os.getpid()}, payload)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "strange_child.py").write_text(textwrap.dedent(CHILD))
    monkeypatch.syspath_prepend(str(tmp_path))
    with Worker("strange_child", 123) as made:
        yield made


def ask(worker, do, payload=b"", limit_s=60.0, reply_limit=1000):
    return worker.ask({"do": do}, payload, limit_s=limit_s, reply_limit=reply_limit)


def test_one_process_answers_until_it_dies_and_then_another_does(worker):
    first, data = ask(worker, "echo", b"\0\1payload")
    assert (first["memory"], data) == (123, b"\0\1payload")
    assert ask(worker, "echo")[0] == first
    with pytest.raises(WorkerDied, match="SIGSEGV") as caught:
        ask(worker, "die")
    assert caught.value.reason == "crash"
    assert ask(worker, "echo")[0]["pid"] != first["pid"]
    assert worker.starts == 2


def test_how_it_died_is_said(worker):
    with pytest.raises(WorkerDied, match=r"exit code 3, the  \[2Jlast words"):
        ask(worker, "exit")
    with pytest.raises(WorkerDied, match="killed from outside, most likely for want of memory"):
        ask(worker, "killed")


def test_a_hang_ends_at_the_limit(worker):
    ask(worker, "echo")
    start = time.monotonic()
    with pytest.raises(WorkerDied, match=r"no answer within 0\.5 s") as caught:
        ask(worker, "hang", limit_s=0.5)
    assert caught.value.reason == "hang"
    assert time.monotonic() - start < 10
    assert ask(worker, "echo")[0]["memory"] == 123


def test_a_hang_with_a_child_of_its_own_ends_too(worker):
    ask(worker, "echo")
    start = time.monotonic()
    with pytest.raises(WorkerDied, match=r"no answer within 0\.5 s"):
        ask(worker, "fork", limit_s=0.5)
    assert time.monotonic() - start < 10


def test_a_child_that_closes_its_pipe_and_lives_on_is_ended(worker, monkeypatch):
    monkeypatch.setattr("tailkeep.auditing.worker._GRACE_S", 0.2)
    with pytest.raises(WorkerDied) as caught:
        ask(worker, "mute")
    assert caught.value.reason == "crash"
    assert ask(worker, "echo")[0]["memory"] == 123


@pytest.mark.parametrize("do", ["garbage", "deep"])
def test_nonsense_ends_the_process(do, worker):
    with pytest.raises(WorkerDied, match="broke the protocol"):
        ask(worker, do)
    assert ask(worker, "echo", b"x")[1] == b"x"


def test_an_answer_that_is_too_long_is_not_read(worker):
    with pytest.raises(WorkerDied, match="broke the protocol"):
        ask(worker, "echo", b"x" * 1001)


def test_a_child_that_cannot_start_says_why():
    with Worker("tailkeep.no_such_module") as worker, pytest.raises(WorkerDied, match="no_such_module"):
        ask(worker, "echo")


def test_a_model_file_cannot_set_the_options_of_the_runtime(worker, monkeypatch):
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    assert "ORT_LOAD_CONFIG_FROM_MODEL" not in ask(worker, "environment", limit_s=60)[0]["names"]


def test_the_working_folder_hides_no_library(worker, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert ask(worker, "echo")[0]["memory"] == 123


def test_text_of_a_stranger_steers_no_terminal():
    assert printable("a\x1b[31mb\nc\u202e") == "a [31mb c "
    assert len(printable("x" * 5000)) == 300
