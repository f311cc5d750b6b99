"""Tracking against a real SQLite MLflow: one run per stage run, every metric once, nothing left RUNNING or unsent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.errors import RequestError
from llmyard.core.spool import Spool
from llmyard.core.tracking import (
    Input,
    Line,
    RunSpec,
    TrackingRejected,
    TrackingUnavailable,
    artifact_root,
    owner_lives,
    process_owner,
    spool_root,
    tracking_uri,
)
from llmyard.runtime.mlflow_gateway import MlflowGateway
from llmyard.runtime.tracking import LocalService, StageRun, Tracking
from llmyard.runtime.tracking_service import RunFolder, Sender, TrackingService

DEAD = f"{process_owner().split(':')[0]}:999999999:1.00"  # no such process on this host


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A storage whose store is migrated once for all tests here."""
    directory = tmp_path_factory.mktemp("storage")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        MlflowGateway(tracking_uri(str(directory))).migrate()
        yield directory


@pytest.fixture
def gateway(storage: Path) -> MlflowGateway:
    return MlflowGateway(tracking_uri(str(storage)), artifact_root(str(storage)))


@pytest.fixture
def tracking(storage: Path, gateway: MlflowGateway) -> Tracking:
    service = TrackingService(gateway.uri, artifact_root(str(storage)), spool_root(str(storage)), background=False)
    return Tracking(str(storage), LocalService(service))


def spec_of(request: pytest.FixtureRequest, **fields: Any) -> RunSpec:
    return RunSpec(token=f"checkpoint/{request.node.name}@1", name=request.node.name, **fields)


def status_of(gateway: MlflowGateway, token: str) -> list[str]:
    return [run.status for run in gateway.runs(1000) if run.token == token]


class Flaky:
    """A gateway whose store answers, is away, or takes the batch and loses the answer."""

    def __init__(self, gateway: MlflowGateway, mode: str = "up") -> None:
        self._gateway = gateway
        self.mode = mode

    def __getattr__(self, name: str) -> Any:
        if self.mode == "down":
            raise TrackingUnavailable("down")
        return getattr(self._gateway, name)


def test_where_runs_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(str(tmp_path)) == tracking_uri(f"file://{tmp_path}") == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_root(str(tmp_path)) == f"{tmp_path}/mlruns"
    with pytest.raises(RequestError, match="MLFLOW_TRACKING_URI"):
        tracking_uri("s3://bucket/llmyard")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri("s3://bucket/llmyard") == "http://mlflow:5000"
    assert artifact_root(str(tmp_path)) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    assert artifact_root(str(tmp_path)) == f"{tmp_path}/mlruns"
    assert spool_root("s3://bucket/llmyard").is_absolute()


def test_an_owner_is_alive_dead_or_unknown() -> None:
    assert owner_lives(process_owner()) is True
    assert owner_lives(DEAD) is False
    assert owner_lives("elsewhere/1:1:1.0") is None
    assert owner_lives(process_owner().rsplit(":", 1)[0] + ":1.00") is False  # the pid was given to another process


def test_a_token_is_one_run_with_config_lineage_and_code_version(
    request: pytest.FixtureRequest, gateway: MlflowGateway, storage: Path
) -> None:
    inputs = (Input("smallworld", "v1", "shards", "/data/shards/smallworld/v1", "d" * 64),)
    spec = spec_of(
        request,
        config={"语言": "zh", "model": {"layers": 2, "init": None}},
        inputs=inputs,
        params={"lr": "0.1"},
        owner=process_owner(),
        code_version="0.1.0+abc",
    )
    run_id = gateway.start_run(spec)
    assert gateway.start_run(spec) == run_id
    assert MlflowGateway(gateway.uri).start_run(spec) == run_id
    run = gateway._connection.client().get_run(run_id)
    assert run.data.params == {"lr": "0.1"}
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("smallworld", "d" * 36)
    config = next(storage.glob(f"mlruns/*/{run_id}/artifacts/config.json"))
    assert json.loads(config.read_text()) == spec.config
    gateway.finish(run_id, "FINISHED", {"final": 0.5}, "checkpoint/x@1", "/x")
    gateway.finish(run_id, "FINISHED", {"final": 0.5}, "checkpoint/x@1", "/x")
    assert [value for _, _, value in gateway.metric_history(run_id, "final")] == [0.5]
    assert [run.artifact for run in gateway.runs(1000) if run.run_id == run_id] == ["checkpoint/x@1"]
    gateway.log_batch(run_id, [Line(1, 1000, {"system/cpu": 0.5})])
    assert gateway.compare([run_id]) == (
        {"lr": {run_id: "0.1"}, "model.layers": {run_id: "2"}, "语言": {run_id: "zh"}},
        {"final": {run_id: 0.5}},
    )


def test_metrics_are_stored_once_by_any_number_of_senders(
    request: pytest.FixtureRequest, gateway: MlflowGateway
) -> None:
    run_id = gateway.start_run(spec_of(request, owner=process_owner()))
    first = [Line(step, 1000 + step, {"loss": float(step), "lr": float("nan")}) for step in range(1, 701)]
    assert gateway.log_batch(run_id, first) == 1400  # more than one call's worth
    retrained = [Line(step, 9000 + step, {"loss": float(step)}) for step in range(600, 711)]
    assert MlflowGateway(gateway.uri).log_batch(run_id, retrained) == 10  # a fresh sender asks MLflow where it stands
    history = gateway.metric_history(run_id, "loss")
    assert [(step, value) for step, _, value in history] == [(step, float(step)) for step in range(1, 711)]
    assert len(gateway.metric_history(run_id, "lr")) == 700


def test_a_batch_whose_answer_was_lost_is_not_doubled(
    request: pytest.FixtureRequest, gateway: MlflowGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = gateway.start_run(spec_of(request, owner=process_owner()))
    client = gateway._connection.client()
    log_batch = client.log_batch

    def lose_the_answer(*args: Any, **options: Any) -> None:
        log_batch(*args, **options)
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(client, "log_batch", lose_the_answer)
    with pytest.raises(TrackingUnavailable):
        gateway.log_batch(run_id, [Line(step, step, {"loss": 1.0}) for step in range(1, 6)])
    monkeypatch.setattr(client, "log_batch", log_batch)
    # Meanwhile the worker was lost with its disk, and trained steps 4 and 5 again.
    gateway.log_batch(run_id, [Line(step, 100 + step, {"loss": 1.0}) for step in range(4, 8)])
    assert [step for step, _, _ in gateway.metric_history(run_id, "loss")] == list(range(1, 8))


def test_a_deleted_run_refuses_for_good_and_the_sender_goes_on(
    request: pytest.FixtureRequest, gateway: MlflowGateway, tmp_path: Path
) -> None:
    run_id = gateway.start_run(spec_of(request, owner=process_owner()))
    gateway._connection.client().delete_run(run_id)
    spool = Spool(tmp_path / "spool")
    sender = Sender(spool, lambda lines: gateway.log_batch(run_id, lines), interval=0.05)
    spool.append(1, {"loss": 1.0})
    assert sender.drain(30)
    sender.stop()
    spool.close()
    assert (tmp_path / "spool" / "rejected.jsonl").exists()


def test_runs_of_dead_owners_are_closed_and_no_others(request: pytest.FixtureRequest, gateway: MlflowGateway) -> None:
    owners = {"dead": DEAD, "alive": process_owner(), "elsewhere": "elsewhere/1:1:1.0", "silent": "elsewhere/1:2:1.0"}
    runs = {
        name: gateway.start_run(RunSpec(token=f"{request.node.name}/{name}", name=name, owner=owner))
        for name, owner in owners.items()
    }
    gateway._connection.client().set_tag(runs["silent"], "llmyard.heartbeat", str(int(time.time()) - 3600))
    closed = gateway.close_abandoned()
    assert runs["dead"] in closed
    assert runs["silent"] in closed
    assert not {runs["alive"], runs["elsewhere"]} & set(closed)


def test_models_map_to_artifacts(gateway: MlflowGateway, tmp_path: Path) -> None:
    source = str(tmp_path)
    first = gateway.register("助手", "checkpoint/base@1", source=source, aliases=["champion"], tags={"task": "对话"})
    assert gateway.register("助手", "checkpoint/base@1", source=source) == first
    second = gateway.register("助手", "checkpoint/base@2", source=source, aliases=["champion"])
    assert (gateway.resolve("助手", "champion"), gateway.resolve("助手", first)) == (
        "checkpoint/base@2",
        "checkpoint/base@1",
    )
    assert first != second
    with pytest.raises(TrackingRejected):
        gateway.resolve("助手", "absent")


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_stage_run_ends_as_the_stage_did(
    request: pytest.FixtureRequest,
    tracking: Tracking,
    gateway: MlflowGateway,
    error: type[BaseException] | None,
    status: str,
) -> None:
    spec = RunSpec(token=f"ends/{status}", name=status)
    with contextlib.nullcontext() if error is None else pytest.raises(error), StageRun(tracking, spec) as run:
        run.tracker().resume(0)
        run.tracker().log(1, {"loss": 1.0})
        if error:
            raise error
    assert status_of(gateway, spec.token) == [status]
    assert not RunFolder(tracking.root, spec.token).path.exists()
    with StageRun(tracking, spec) as run:  # resumed: the same MLflow run
        run.tracker().resume(1)
        run.tracker().log(2, {"loss": 0.5})
    assert status_of(gateway, spec.token) == ["FINISHED"]
    run_id = gateway.find_run(spec.token, "llmyard")
    assert run_id is not None
    assert [step for step, _, _ in gateway.metric_history(run_id, "loss")] == [1, 2]


def test_with_mlflow_down_all_along_the_next_command_makes_the_run(
    request: pytest.FixtureRequest, storage: Path, gateway: MlflowGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = spool_root(str(storage))
    service = TrackingService(gateway.uri, None, root, background=False)
    monkeypatch.setattr(service, "_gateway", Flaky(gateway, "down"))
    spec = spec_of(request, config={"a": 1})
    with StageRun(Tracking(str(storage), LocalService(service)), spec) as run:
        assert run.run_id() is None
        tracker = run.tracker()
        tracker._drain_seconds = 0.5
        tracker.resume(0)
        for step in range(1, 11):
            tracker.log(step, {"loss": float(step)})
        run.result({"final": 1.0}, "checkpoint/late@1")
    assert status_of(gateway, spec.token) == []
    folder = RunFolder(root, spec.token)
    record = folder.record()
    assert record is not None
    ending = folder.ending()
    folder.begin(record[0], dataclasses.replace(record[1], owner=DEAD))  # that command has ended
    assert ending is not None
    folder._write("end.json", ending)
    assert TrackingService(gateway.uri, artifact_root(str(storage)), root, background=False).flush_pending() == 0
    assert status_of(gateway, spec.token) == ["FINISHED"]
    run_id = gateway.find_run(spec.token, "llmyard")
    assert run_id is not None
    assert [step for step, _, _ in gateway.metric_history(run_id, "loss")] == list(range(1, 11))
    assert not folder.path.exists()


def test_a_sender_waits_out_an_absence(request: pytest.FixtureRequest, gateway: MlflowGateway, tmp_path: Path) -> None:
    run_id = gateway.start_run(spec_of(request, owner=process_owner()))
    flaky = Flaky(gateway, "down")
    spool = Spool(tmp_path / "spool")
    sender = Sender(spool, lambda lines: flaky.log_batch(run_id, lines), interval=0.05, longest_pause=0.2)
    for step in range(1, 51):
        spool.append(step, {"loss": 1.0})
    assert not sender.drain(0.5)
    assert isinstance(sender.failure, TrackingUnavailable)
    flaky.mode = "up"
    assert sender.drain(30)
    sender.stop()
    assert spool.remove()
    assert [step for step, _, _ in gateway.metric_history(run_id, "loss")] == list(range(1, 51))


def test_several_processes_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from llmyard.runtime.mlflow_gateway import MlflowGateway; from llmyard.core.tracking import *; "
        "g = MlflowGateway(sys.argv[1]); "
        "r = g.start_run(RunSpec(token='t' + sys.argv[2], name='n', owner=process_owner())); "
        "g.log_batch(r, [Line(1, 1, {'loss': 1.0})]); g.finish(r, 'FINISHED')"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, str(each)], stderr=subprocess.PIPE, text=True, env=environment
        )
        for each in range(4)
    ]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 4
    assert [run.status for run in MlflowGateway(uri).runs()] == ["FINISHED"] * 4


@pytest.mark.integration
def test_under_ray_the_worker_tracks_without_mlflow_and_resumes_in_one_run(
    shared_ray: None, storage: Path, gateway: MlflowGateway
) -> None:
    import ray

    def train(ticket: Any, first: int, state: bytes) -> tuple[bytes, bool]:
        tracker = ticket.open(system_seconds=0.2)
        tracker.resume(first - 1, state)
        for step in range(first, first + 30):
            tracker.log(step, {"loss": float(step)})
            time.sleep(0.01)
        state = tracker.checkpoint_state()
        tracker.close()
        return state, "mlflow" in sys.modules

    token = "checkpoint/under-ray@1"
    task = ray.remote(num_cpus=1)(train)
    with Tracking(str(storage)) as tracking, StageRun(tracking, RunSpec(token=token, name="under-ray")) as run:
        state, imported = ray.get(task.remote(run.ticket(), 1, b""))
        ray.get(task.remote(run.ticket(), 21, state))  # steps 21 to 30 are trained and logged again
        run.result({"final": 1.0}, token)
        assert not imported
    assert status_of(gateway, token) == ["FINISHED"]
    run_id = gateway.find_run(token, "llmyard")
    assert run_id is not None
    assert [step for step, _, _ in gateway.metric_history(run_id, "loss")] == list(range(1, 51))
    assert gateway.metric_history(run_id, "system/cpu_utilization_percentage")
    assert not [each for each in threading.enumerate() if each.name == "llmyard-spool"]
