"""`submit`, `jobs` and `runs resume` as far as they go without a cluster, and what is sent to one."""

from __future__ import annotations

import io
import json
import shlex
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.jobfile import load_job
from llmyard.core.submission import FORWARDED
from llmyard.stages.config import job_adapter

ROOT = Path(__file__).resolve().parents[3]
PYTHON = "/opt/py thon/bin/python"
JOB = "# 任务\nkind: command\noutput: made\ncommand: [python3, go.py, '{output}']\nreads: [go.py]\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.json = shell.debug = False
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS", "LLMYARD_STORAGE", *FORWARDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    (tmp_path / "go.py").write_text("print(1)", encoding="utf-8")


class Cluster:
    """Answers as the dashboard of a node with two CPUs, and keeps what it was sent."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.packages: dict[str, bytes] = {}
        self.resources = {"CPU": 2.0}
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                worker = f"--python_worker_command={PYTHON} /ray/_private/workers/setup_worker.py …"
                node = {"node_id": "n1", "is_head_node": True, "state": "ALIVE", "resources_total": cluster.resources}
                dead = {**node, "node_id": "n0", "state": "DEAD", "resources_total": {"GPU": 8.0}}
                answers = {
                    "/api/version": {"ray_version": "2.60.0"},
                    "/api/v0/cluster_metadata": {"data": {"pythonVersion": "3.11.7"}},
                    "/api/v0/nodes?detail=1&limit=10000": {"data": {"result": {"result": [dead, node]}}},
                    "/nodes/n1": {"data": {"detail": {"cmdline": ["raylet", worker]}}},
                    "/api/cluster_status": {"data": {"clusterStatus": None}},
                    "/nodes?view=summary": {"data": {"summary": [{"raylet": {"nodeTypeName": ""}}]}},
                    "/api/jobs/": cluster.jobs,
                }
                name = self.path.rpartition("/")[2]
                known = self.path in answers or name in cluster.packages
                self.answer(200 if known else 404, answers.get(self.path, ""))

            def do_PUT(self) -> None:
                cluster.packages[self.path.rpartition("/")[2]] = self.body()
                self.answer(200, "")

            def do_POST(self) -> None:
                job = json.loads(self.body())
                cluster.jobs.append({**job, "status": "RUNNING", "type": "SUBMISSION", "start_time": 1})
                self.answer(200, {"submission_id": job["submission_id"]})

            def body(self) -> bytes:
                return self.rfile.read(int(self.headers["Content-Length"]))

            def answer(self, code: int, said: Any) -> None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, uri: str) -> dict[str, bytes]:
        archive = zipfile.ZipFile(io.BytesIO(self.packages[uri.removeprefix("gcs://")]))
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    yield found
    found.close()


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return found


def submit(address: str, *more: str, job: str = "job.yaml") -> int:
    return main(["submit", job, "--address", address, *more])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "the storage"),
        (("--storage", "/data"), "does not see it"),
        (("--storage", "s3://key:hunter2@b"), "holds a password"),
        (("--storage", "s3://b", "--env", "NOT_SET_HERE"), "is not set here"),
        (("--storage", "s3://b", "--id", "a/b"), "cannot be a submission id"),
        (("--storage", "s3://b", "--set", "reads.0=data.csv"), "--set reads.0=data.csv: reads.0: data.csv is on this"),
        (("--storage", "s3://b", "--set", "outputt=x"), "did you mean 'output'"),
        (("--storage", "s3://b", "--code", "there"), "--code"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # whoever connects is refused, with another message
        assert submit(f"127.0.0.1:{nobody.getsockname()[1]}", *more) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "hunter2" not in shown


def test_no_cluster_at_the_address_is_one_message_also_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("127.0.0.1:9", "--storage", "s3://b") == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 2
    assert "no Ray cluster answers at http://127.0.0.1:9" in shown
    assert submit("127.0.0.1:9", "--storage", "s3://b", "--json") == 2
    assert "no Ray cluster answers" in answer(capsys)["error"]


def test_what_a_cluster_is_sent(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("OWN", "hunter3")
    monkeypatch.setenv("NOT_NAMED", "hunter4")
    more = ("--storage", "s3://b/x", "--env", "OWN", "--set", "timeout_seconds=9", "--force", "--detach", "--json")
    assert submit(cluster.url, *more) == 0
    shown = capsys.readouterr()
    (job,) = cluster.jobs
    told = json.loads(shown.out)
    assert (told["status"], told["submission_id"]) == ("submitted", job["submission_id"])
    command = shlex.split(job["entrypoint"])
    assert command[:5] == ["exec", PYTHON, "-m", "llmyard", "run"]
    assert command[5:] == [
        "job.yaml", "--address", "auto", "--storage", "s3://b/x", "--json", "--force", "--set", "timeout_seconds=9",
        "--set", 'reads.0="$PWD/files/go.py"', "--set", 'command.1="files/go.py"',
    ]  # fmt: skip
    parcel = cluster.files(job["runtime_env"]["working_dir"])
    assert parcel["job.yaml"].decode() == JOB
    assert set(parcel) == {"job.yaml", "files/go.py", "submission.json"}
    code, variables = map(cluster.files, job["runtime_env"]["py_modules"])
    assert code["llmyard/cli/submit.py"] == (ROOT / "platform/llmyard/cli/submit.py").read_bytes()
    assert "llmyard/cli/messages.yaml" in code
    assert not any("__pycache__" in name for name in code)
    (module,) = variables.values()
    assert b"hunter2" in module
    assert b"hunter3" in module
    assert b"hunter4" not in module
    everything_else = json.dumps(job) + str(parcel) + shown.out + shown.err
    assert "hunter" not in everything_else
    assert "HF_TOKEN, OWN" in shown.err
    assert job["metadata"]["llmyard_storage"] == "s3://b/x"
    assert set(job["runtime_env"]["env_vars"]) <= {
        "LLMYARD_SUBMISSION", "LLMYARD_LANG", "LLMYARD_COMMIT", "RAY_JOB_STOP_WAIT_TIME_S",
    }  # fmt: skip


def test_the_same_job_again_is_attached_to_and_another_id_is_another_job(
    capsys: pytest.CaptureFixture[str], cluster: Cluster
) -> None:
    once = ("--storage", "s3://b", "--detach", "--code", "image")
    assert submit(cluster.url, *once) == 0
    assert submit(cluster.url, *once) == 0
    assert "already" in capsys.readouterr().out
    assert len(cluster.jobs) == 1
    assert "py_modules" not in cluster.jobs[0]["runtime_env"]  # which Ray could not set up if it were empty
    assert submit(cluster.url, *once, "--id", "mine") == 0
    assert cluster.jobs[1]["submission_id"] == "mine"
    assert submit(cluster.url, *once, "--id", "mine", "--set", "timeout_seconds=9") == 2
    assert "another job runs" in capsys.readouterr().err
    cluster.jobs[1]["status"] = "FAILED"
    assert submit(cluster.url, *once, "--id", "mine") == 0
    assert cluster.jobs[2]["submission_id"] == "mine-2"


def test_a_job_that_the_cluster_can_never_place_is_refused_with_what_is_missing(
    capsys: pytest.CaptureFixture[str], cluster: Cluster
) -> None:
    text = (
        "kind: pretrain\noutput: b\nshards: c\nsteps: 9\nsequence_length: 64\n"
        "model: {family: gpt2, layers: 1, hidden_size: 32, heads: 2}\nbatch: {size: 8, micro_batch: 4}\n"
        "resources: {workers: 2, gpus_per_worker: 1}\n"
    )
    Path("gpu.yaml").write_text(text, encoding="utf-8")
    assert submit(cluster.url, "--storage", "s3://b", job="gpu.yaml") == 2
    assert "gpu.yaml:8:12: resources: pretrain b: 2 workers need 2 GPUs, the cluster has 0" in capsys.readouterr().err
    assert (cluster.jobs, cluster.packages) == ([], {})
    assert main(["check", "gpu.yaml", "--address", cluster.url, "--storage", "store"]) == 2
    assert "2 workers need 2 GPUs" in capsys.readouterr().err
    cluster.resources = {"CPU": 2.0, "GPU": 2.0}
    assert submit(cluster.url, "--storage", "s3://b", "--detach", "--code", "image", job="gpu.yaml") == 0


def test_a_key_that_the_job_names_is_missed_aloud(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("ask.yaml").write_text(
        "kind: evaluate\noutput: e\nendpoint: {url: 'http://there.example', model: m, key_env: MY_KEY}\n"
        "task: {kind: translation}\ndata: {kind: smallworld}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("MY_KEY", "hunter2")
    more = ("--storage", "s3://b", "--detach", "--code", "image")
    assert submit(cluster.url, *more, job="ask.yaml") == 0
    assert "--env MY_KEY" in capsys.readouterr().err
    assert submit(cluster.url, *more, "--env", "MY_KEY", "--id", "x", job="ask.yaml") == 0
    assert "note:" not in capsys.readouterr().err


def test_the_jobs_of_a_cluster_in_the_users_language(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMYARD_LANG", "zh")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", cluster.url)
    assert main(["jobs", "list"]) == 0
    assert capsys.readouterr().out == "还没有任务\n"
    assert submit(cluster.url, "--storage", "s3://b", "--detach", "--code", "image") == 0
    assert "已提交" in capsys.readouterr().out
    assert main(["jobs", "list"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("提交编号", "运行中"))
    cluster.jobs[0] |= {"status": "FAILED", "driver_exit_code": -9, "end_time": 5000}
    assert main(["jobs", "status", "made"]) == 0
    said = capsys.readouterr().out
    assert "状态: 失败" in said
    assert "signal 9" in said
    assert main(["jobs", "status", "made", "--json"]) == 0
    assert answer(capsys)["job"]["exit_code"] == 1
    assert main(["jobs", "stop", "made"]) == 2
    assert "has ended already" in capsys.readouterr().err


def test_what_nobody_knows_cannot_be_gone_on_with(capsys: pytest.CaptureFixture[str], cluster: Cluster) -> None:
    assert main(["runs", "resume", "abc", "--storage", "store"]) == 2
    assert "knows no run and no submission 'abc'" in capsys.readouterr().err
    assert main(["runs", "resume", "abc", "--storage", "store", "--address", cluster.url]) == 2
    assert not Path("store").exists()


def test_looking_at_a_cluster_needs_no_ray() -> None:
    code = (
        "import sys; from llmyard.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, [name for name in ('ray', 'torch', 'mlflow', 'aiohttp') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "jobs", "list", "--address", "127.0.0.1:9"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "2 []"


def test_what_was_given_for_a_job_is_enough_to_read_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMYARD_DATA", "/data")
    for file in sorted((ROOT / "jobs").rglob("*.yaml")):
        job = load_job(file, job_adapter())
        assert job_adapter().validate_python(json.loads(json.dumps(job.given()))) == job, file
