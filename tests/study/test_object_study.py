"""A real study on an object store, the commands that take its URL, what it asks for, and the places it refuses."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tailkeep import cli as cli_module
from tailkeep.errors import BadInput
from tailkeep.study import lease, object_lease
from tailkeep.study import objects as objects_module
from tailkeep.study.carry import carry_out
from tailkeep.study.engine import Engine
from tailkeep.study.gc import collect
from tailkeep.study.limits import StorageFailed
from tailkeep.study.object_store import ObjectStore
from tailkeep.study.plan import Cell, Plan, Step
from tailkeep.study.record import at_work
from tailkeep.study.store import Store
from tailkeep.study.stores import open_store
from tailkeep.study.verify import verify

sys.path.append(str(Path(__file__).parent))
toy = importlib.import_module("toy_store")
KEY = toy.key_of("a step")


@pytest.fixture
def digits(small: dict[str, Any]) -> dict[str, Any]:
    """A dense model and a pruned one."""
    small["methods"] = small["methods"][:1]
    small["recipe"]["epochs"] = 1
    return small


def ran(study: Any) -> str:
    from tailkeep.study.results import result_hash

    assert not study.run().failed
    return result_hash(study.plan, study.store)


@pytest.mark.slow
def test_a_study_gives_the_same_bits_and_is_read_by_a_fresh_machine(
    opened: Callable[..., Any], digits: dict[str, Any], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ran(opened(digits))
    url = f"s3://{bucket}/study"
    assert ran(opened(digits, store=url, workers=2)) == expected
    monkeypatch.setenv("TAILKEEP_CACHE", str(tmp_path / "another machine"))
    again = opened(digits, store=url)
    calls = counted(again.store)
    assert again.todo == {}
    assert set(calls) == {"list_objects_v2", "get_object"}
    assert again.run().done == []
    assert len(again.analyse()[0]) == len(opened(digits).analyse()[0])
    assert ran(again) == expected
    cached = [path.name for path in again.store.root.rglob("*.safetensors")]
    assert cached == [], "weights are downloaded by whoever reads them"
    assert not [name for name in again.store.objects.listed() if name.startswith("leases/")]


@pytest.mark.slow
def test_commands_read_and_write_a_url(
    opened: Callable[..., Any], digits: dict[str, Any], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, other = f"s3://{bucket}/study", f"s3://{bucket}/other"
    expected = ran(opened(digits, store=url))
    monkeypatch.setenv("TAILKEEP_CACHE", str(tmp_path / "another machine"))

    def told(*arguments: str) -> dict[str, Any]:
        answer = CliRunner().invoke(cli_module.app, [*arguments, "--json"])
        assert answer.exit_code == 0, answer.output
        return dict(json.loads(answer.stdout))

    path, results = str(tmp_path / "study.yaml"), str(tmp_path / "x.results.zip")
    [study] = told("status", "--store", url)["studies"]
    assert (study["done"], study["missing"]) == (study["goals"], 0)
    assert told("plan", path, "--store", url)["trainings_to_do"] == 0
    assert told("export-results", path, "--store", url, "--out", results)["result_hash"] == expected
    assert told("import-results", results, "--store", other)["store"] == other
    assert told("import-results", results, "--store", other)["files"][0]["already_there"]
    [brought] = told("status", "--store", other)["imported"]
    assert brought["cells_done"] == brought["cells"] > 0
    assert told("plan", path, "--store", other)["cells_imported"] == brought["cells"]
    file = tmp_path / "pruned.onnx"
    told("export", path, "--method", "pruned", "--setting", "exponential-10", "--store", url, "--out", str(file))
    assert file.stat().st_size > 1000


@pytest.mark.slow
def test_a_damaged_model_is_done_again_though_its_prediction_stands(
    bucket: str, digits: dict[str, Any], opened: Callable[..., Any]
) -> None:
    """The result names the model's hash, which must not silently become that of a study without the model."""
    import boto3

    digits["balanced"], digits["methods"] = "none", []
    place = f"s3://{bucket}/studies"
    study = opened(digits, store=place)
    whole = ran(study)
    key = next(key for key, step in study.plan.steps.items() if step.kind == "train")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"studies/train/{key}/manifest.json", Body=b"{")
    again = opened(digits, store=place)
    assert list(again.todo) == [key]
    assert ran(again) == whole
    assert opened(digits, store=place).todo == {}


def test_a_process_that_is_killed_before_the_commit_costs_that_step_alone(
    opened: Callable[..., Any], digits: dict[str, Any], bucket: str, tmp_path: Path
) -> None:
    expected, url = ran(opened(digits)), f"s3://{bucket}/killed"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tailkeep.study.objects import Objects\n"
        "from tailkeep.study.runner import Options, open_study\n"
        "create = Objects.create\n"
        "def killed(own, name, data):\n"
        "    if name.startswith('transform/'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return create(own, name, data)\n"
        "Objects.create = killed\n"
        "open_study(Path(sys.argv[1]), Options(store=sys.argv[2], workers=1)).run()\n"
    )
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path / "study.yaml"), url], check=False, timeout=120)
    assert child.returncode == -signal.SIGKILL
    study = opened(digits, store=url)
    left = [name for name in study.store.objects.listed() if name.startswith("transform/")]
    assert len(left) == 3, "step.json, model.safetensors, log.jsonl"
    assert not [name for name in left if "manifest" in name]
    done = [step.kind for step in study.plan.steps.values() if step.key not in study.todo]
    assert "train" in done
    assert "transform" not in done
    assert ran(study) == expected
    assert [item.what for item in collect(study.store).removed] == ["upload"]
    assert verify(study.store).damages == []


def counted(store: Any) -> Counter[str]:
    """Count the requests of a store from now on, by their names."""
    calls: Counter[str] = Counter()
    real = store.objects.fs._call_s3

    async def call(method: str, *given: Any, **named: Any) -> Any:
        calls[method] += 1
        return await real(method, *given, **named)

    store.objects.fs._call_s3 = call
    return calls


def test_requests_of_a_step_are_what_the_docs_say(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 3600.0)
    monkeypatch.setattr(object_lease, "HEART", lease._Heart())
    store, plan = ObjectStore(f"s3://{bucket}/count"), Plan("toy")
    for key in (letter * 64 for letter in "abcde"):
        plan.steps[key] = Step(key, "predict", {"parents": {}}, key[:1])
        plan.cells.append(Cell({"role": "technique"}, key, key, (1, 1)))

    def work(step: Step, runtime: Any) -> str:
        def act(folder: Path) -> dict[str, Any]:
            (folder / "predictions.npz").write_bytes(b"labels")
            return {}

        return carry_out(step, store, {}, act, lambda error: None)

    def run() -> Counter[str]:
        before = Counter(calls)
        Engine(plan, store, work, None).run()
        assert [store.status("predict", key) for key in plan.steps] == ["done"] * 5
        return calls - before

    with at_work(store, "s", plan.goals):
        calls = counted(store)
        first, again = run(), run()
    assert first["put_object"] == 5 * 4, "lease, step.json, the file, manifest"
    assert first["get_object"] == 5 * 5, "held? time measured, twice; done, before and after"
    assert first["list_objects_v2"] == 5 + 1, "has all arrived? and all that is there, once"
    assert first["delete_object"] == 5
    assert again == {"list_objects_v2": 1}


# --- commands and errors ---------------------------------------------------------------------------------------------


def test_the_commands_of_upkeep_take_a_url(bucket: str, app: typer.Typer) -> None:
    url = f"s3://{bucket}/a/b"
    store = ObjectStore(url)
    toy.stored(store, "train", "a step")
    toy.stored(store, "train", "bad", reason="nan")
    toy.recorded(store, "s", ("train", "a step"), ("train", "bad"))
    told = CliRunner().invoke(app, ["verify", url])
    assert (told.exit_code, f"{url}: 2 steps, 1 record and 0 imports checked" in told.output) == (0, True), told.output
    [weights] = [name for name in store.objects.listed() if name.endswith("model.safetensors") and KEY in name]
    store.objects.put(weights, b"other")
    facts = json.loads(CliRunner().invoke(app, ["verify", url, "--json"]).output)
    assert facts["damages"][0]["moved"] == f"{url}/train/{KEY}/manifest.damaged.json"
    assert facts["store"] == url
    told = CliRunner().invoke(app, ["retry", url])
    assert "1 failed steps made pending" in told.output
    told = CliRunner().invoke(app, ["gc", url, "--damaged"])
    assert f"{url}: removed 1" in told.output, told.output
    assert list(ObjectStore(url).objects.listed()) == ["studies/s.json"]


def test_places_that_cannot_be_used_are_refused_before_any_compute(
    bucket: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yaml").write_text("name: x", encoding="utf-8")
    told = cli("run", "study.yaml", "--store", "s3://no-such-bucket/x")
    assert (told.returncode, "there is no such bucket" in told.stderr) == (2, True), told.stderr
    for url, words in ((f"S3://{bucket}/a", ""), ("s3://", "names no bucket"), ("s3:/a", "has lost a slash")):
        told = cli("retry", url)
        assert (told.returncode, words in told.stderr, "Traceback" in told.stderr) == (2, True, False), told.stderr
        assert "no study has run in this store" in told.stderr or words
    with pytest.raises(BadInput, match="no study has run in this store"):
        verify(f"s3://{bucket}/empty")
    with pytest.raises(BadInput, match="Protocol not known"):
        open_store("nonsense://x/y")
    with pytest.raises(BadInput, match="cannot create an object only where there is none"):
        open_store("data://x/y")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BadInput, match="set AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{bucket}/x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match="the store cannot be reached"):
        open_store(f"s3://{bucket}/x")
    with pytest.raises(BadInput, match=r"has lost a slash; give it as text: 's3://"):
        open_store(Path("s3://bucket/x"))


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BadInput, match=r"pip install 'tailkeep\[s3\]'"):
        open_store("s3://bucket/x")


def test_a_folder_needs_no_fsspec(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tailkeep.study.stores import open_store\n"
        f"assert open_store('file://{tmp_path}').address == {str(tmp_path)!r}\n"
        "sys.exit(bool({'fsspec', 's3fs', 'botocore'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert type(open_store(tmp_path)) is Store


def test_a_store_that_goes_away_ends_the_run_and_says_that_it_goes_on(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "PAUSES", (0.0, 0.0))
    store, step = ObjectStore(f"s3://{bucket}/away"), Step(KEY, "train", {"parents": {}}, "a label")
    tries: list[str] = []

    def act(folder: Path) -> dict[str, Any]:
        async def gone(method: str, *given: Any, **named: Any) -> Any:
            tries.append(method)
            raise ConnectionResetError("gone")

        monkeypatch.setattr(store.objects.fs, "_call_s3", gone)
        return {}

    with pytest.raises(StorageFailed, match=r"unreachable: s3://.*the same command goes on") as caught:
        carry_out(step, store, {}, act, lambda error: None)
    assert (caught.value.exit_code, tries[:3]) == (3, ["put_object"] * 3)


def test_denied_access_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(f"s3://{bucket}/denied")

    async def denied(method: str, *given: Any, **named: Any) -> Any:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(store.objects.fs, "_call_s3", denied)
    with pytest.raises(StorageFailed, match=r"no_access: .*check the credentials"):
        store.status("train", KEY)
    with pytest.raises(BadInput, match="the server refuses access"):
        store.objects.check()
