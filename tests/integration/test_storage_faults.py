"""A disk that fills up, or becomes read-only, under a running `prepare`: one clear message, nothing that a reader would
trust, and the next run goes on to the same bytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from llmyard.cli.main import main
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run

pytestmark = pytest.mark.integration

PATIENCE = 240.0
ROOM = 1 << 30  # `llmyard run` refuses to begin with less than half a gigabyte
JOB: dict[str, Any] = {
    "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 1500}],
    "documents_per_task": 50, "tokenizer": {"vocab_size": 400}, "splits": {"validation": 0.1},
}  # fmt: skip


def mount(*arguments: str) -> str:
    """Mounts; returns what went wrong, "" if nothing."""
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False).stderr.strip()


class Disk:
    """A small disk of its own in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leaves a few pages."""
        figures = os.statvfs(self.folder)
        used = (figures.f_blocks - figures.f_bfree) * figures.f_frsize
        self._remount(f"size={used + (64 << 10)}")

    def freeze(self) -> None:
        """Makes it read-only."""
        self._remount("ro")

    def mend(self) -> None:
        """Makes it large and writable."""
        self._remount(f"rw,size={ROOM}")

    def _remount(self, options: str) -> None:
        give_up = time.monotonic() + 30  # it is refused while a file is open for writing
        while problem := mount("-o", f"remount,{options}", str(self.folder)):
            assert time.monotonic() < give_up, problem
            time.sleep(0.001)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    if problem := mount("-t", "tmpfs", "-o", f"size={ROOM}", "llmyard-test", str(folder)):
        pytest.skip(f"cannot mount a small disk here: {problem}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    storage = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run(job_adapter().validate_python(JOB), storage=str(storage))
    return contents(storage)


def contents(storage: Path) -> dict[str, bytes]:
    """Returns the artifacts' listed files by name, without the owner's number in it; nothing else may be there."""
    found = {}
    for kind in ("shards", "tokenizer"):
        (artifact,) = ArtifactStore(Storage(str(storage))).list(kind)
        listed = {entry.path for entry in artifact.files()}
        there = {path.name for path in artifact.local().iterdir()}
        assert there == listed | {"artifact.json", artifact.files_list}
        found |= {f"{kind}/{re.sub(r'-f[0-9]+', '', name)}": artifact.local(name).read_bytes() for name in listed}
        if kind == "shards":  # the index names the files, with the number of the owner that wrote each
            rows = pq.read_table(artifact.local("shards.parquet")).to_pylist()
            found["shards/shards.parquet"] = re.sub(r"-f[0-9]+", "", str(rows)).encode()
    return found


def start(job: Path, disk: Disk, tmp_path: Path) -> subprocess.Popen[str]:
    """Starts the command; MLflow's database, which stays open for writing, lies on another disk."""
    command = [str(Path(sys.executable).with_name("llmyard")), "run", str(job), "--storage", str(disk.folder / "s")]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for(command: subprocess.Popen[str], storage: Path, pattern: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not list(storage.glob(pattern)):
        assert command.poll() is None, command.communicate()[0]
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.002)


def said_by_ray(pid: int) -> str:
    """Returns the end of what Ray logged in a driver that ended without a word."""
    logs = Path("/tmp").glob(f"ly-*/session_*/logs/python-core-driver-*_{pid}.log")
    return "".join(log.read_text(encoding="utf-8", errors="replace")[-6000:] for log in logs)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fault", "phase", "remedy"),
    [
        (Disk.fill, "clean", "free some disk space"),
        (Disk.fill, "encode", "free some disk space"),
        (Disk.freeze, "clean", "read-only"),
    ],
)
def test_a_disk_that_fails_under_prepare_is_one_clear_message_and_no_artifact(
    disk: Disk, undisturbed: dict[str, bytes], tmp_path: Path, fault: Callable[[Disk], None], phase: str, remedy: str
) -> None:
    job, storage = tmp_path / "job.yaml", disk.folder / "s"
    job.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    first = start(job, disk, tmp_path)
    try:
        wait_for(first, storage, f"shards/corpus/*/_making/{phase}/*.json")
        fault(disk)
        output = first.communicate(timeout=PATIENCE)[0]
    finally:
        first.kill()
    assert first.returncode == 1, output
    assert "error: " in output, output + said_by_ray(first.pid)
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if line.startswith("error: ")] == re.findall(
        "error: cannot write .*", output
    )
    assert remedy in output
    assert list(storage.glob("shards/corpus/*/artifact.json")) == []
    assert list(ArtifactStore(Storage(str(storage))).list("shards")) == []

    disk.mend()
    second = start(job, disk, tmp_path)
    try:
        output = second.communicate(timeout=PATIENCE)[0]
    finally:
        second.kill()
    assert second.returncode == 0, output
    assert contents(storage) == undisturbed


def test_a_storage_that_is_read_only_from_the_start_is_refused_at_once(disk: Disk, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    (disk.folder / "s").mkdir()
    disk.freeze()
    command = start(job, disk, tmp_path)
    output = command.communicate(timeout=PATIENCE)[0]
    assert command.returncode == 2
    assert "Traceback" not in output
    assert "cannot be written" in output
    assert list((disk.folder / "s").iterdir()) == []


def test_runs_of_a_read_only_storage_are_listed(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    storage = str(disk.folder / "s")
    track = (
        "import sys; from llmyard.core.tracking import *; from llmyard.runtime.mlflow_gateway import MlflowGateway; "
        "storage = sys.argv[1]; gateway = MlflowGateway(tracking_uri(storage), artifact_root(storage)); "
        "gateway.finish(gateway.start_run(RunSpec('shards/corpus@1', 'prepare-corpus')), 'FINISHED')"
    )
    subprocess.run([sys.executable, "-c", track, storage], check=True)  # this process would keep the file open
    disk.freeze()
    assert main(["runs", "list", "--storage", storage]) == 0
    assert "prepare-corpus" in capsys.readouterr().out


def test_a_broken_store_of_runs_is_not_blamed_on_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    assert main(["runs", "list", "--storage", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "file is not a database" in said
    assert "give another --storage" in said
    assert "MLFLOW_TRACKING_URI" not in said
