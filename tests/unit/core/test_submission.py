"""Jobs on a cluster, decided without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmyard.core.errors import RequestError
from llmyard.core.submission import (
    BASE,
    DIGEST,
    ENVIRONMENT_MODULE,
    FORWARDED,
    Attempt,
    Output,
    Submission,
    Unseen,
    base_id,
    check_id,
    check_storage,
    environment,
    environment_module,
    load_environment,
    next_attempt,
    packed,
    unpacked,
)


def job(
    name: str, status: Any = "RUNNING", base: str = "base", digest: str = "d", code: int | None = None
) -> Submission:
    return Submission(name, status, code=code, metadata={BASE: base, DIGEST: digest})


def test_only_the_allow_list_and_what_is_named_goes_along() -> None:
    known = {
        "HF_TOKEN": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_PROFILE": "mine",
        "SSH_KEY": "c",
        "WANTED": "",
        "PATH": "/",
    }
    assert environment(["WANTED"], known) == {"AWS_SECRET_ACCESS_KEY": "b", "HF_TOKEN": "a", "WANTED": ""}
    assert environment([], {"HF_TOKEN": ""}) == {}
    assert not any(name.startswith("RAY_") for name in FORWARDED)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NOT_SET", "is not set here"),
        ("A=hunter2", "names no variable"),
        ("RAY_AUTH_TOKEN", "itself"),
        ("a b", "no variable"),
    ],
)
def test_names_that_cannot_go_along_are_refused_without_their_values(name: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        environment([name], {"RAY_AUTH_TOKEN": "hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "http://localhost:5000", "http://me:pw@127.0.0.1:5000", "./mlruns"])
def test_a_tracking_server_of_this_machine_is_refused_and_its_address_not_shown(uri: str) -> None:
    with pytest.raises(RequestError, match="MLFLOW_TRACKING_URI") as refused:
        environment([], {"MLFLOW_TRACKING_URI": uri})
    assert uri not in str(refused.value)
    assert environment([], {"MLFLOW_TRACKING_URI": uri}, is_shared=True)
    assert environment([], {"MLFLOW_TRACKING_URI": "https://mlflow.example"})


def test_a_cluster_cannot_write_to_this_machine_and_passwords_do_not_travel_in_addresses() -> None:
    with pytest.raises(RequestError, match="on this machine"):
        check_storage("/data", is_local=True, is_shared=False)
    check_storage("/data", is_local=True, is_shared=True)
    check_storage("s3://bucket/x", is_local=False, is_shared=False)
    with pytest.raises(RequestError, match="password") as refused:
        check_storage("s3://key:hunter2@bucket/x", is_local=False, is_shared=False)
    assert "hunter2" not in str(refused.value)


def test_variables_come_as_a_module_that_names_itself_by_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"LLMYARD_TEST_SECRET": "pass'word\n\"秘密\\"}
    first, second = environment_module(values), environment_module(values)
    assert packed(first) != packed(second)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("LLMYARD_TEST_SECRET", raising=False)
    load_environment()  # nothing came along
    for name, data in first.items():
        (tmp_path / name).write_bytes(data)
    load_environment()
    import os

    assert os.environ["LLMYARD_TEST_SECRET"] == values["LLMYARD_TEST_SECRET"]
    sys.modules.pop(ENVIRONMENT_MODULE)
    monkeypatch.delenv("LLMYARD_TEST_SECRET")


def test_ids_are_names_with_a_digest() -> None:
    assert base_id("my job/中文", "0123456789abcdef") == "my-job-0123456789"
    assert base_id("自己的", "0123456789abcdef") == "job-0123456789"
    assert len(base_id("x" * 200, "0" * 64)) < 60
    assert check_id("nightly-1.0") == "nightly-1.0"
    for wrong in ("", "a/b", "-x", "中文", "a b"):
        with pytest.raises(RequestError):
            check_id(wrong)


def test_one_id_a_job_as_long_as_it_is_alive() -> None:
    assert next_attempt("base", "d", []) == Attempt("base", False)
    assert next_attempt("base", "d", [job("base")]) == Attempt("base", True)
    assert next_attempt("base", "d", [job("base", "PENDING")]) == Attempt("base", True)
    ended = [job("base", "FAILED"), job("base-2", "SUCCEEDED"), job("other", "RUNNING", base="other")]
    assert next_attempt("base", "d", ended) == Attempt("base-3", False)
    assert next_attempt("base", "d", [*ended, job("base-3")]) == Attempt("base-3", True)
    assert next_attempt("base", "d", [job("base-2", "FAILED", base="base-2")]) == Attempt("base", False)


def test_another_job_under_the_same_id_is_not_attached_to() -> None:
    for there in (job("base", digest="other"), Submission("base", "RUNNING")):
        with pytest.raises(RequestError, match="another job runs"):
            next_attempt("base", "d", [there])
    assert next_attempt("base", "d", [job("base", "FAILED", digest="other")]) == Attempt("base-2", False)


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "loss"),
    [
        ("SUCCEEDED", 0, 0, ""), ("STOPPED", None, 130, ""), ("FAILED", 1, 1, ""), ("FAILED", 2, 2, ""),
        ("FAILED", 130, 130, ""), ("FAILED", -9, 1, "killed by signal 9"), ("FAILED", 137, 1, "killed by signal 9"),
        ("FAILED", 3, 1, "ended with code 3"), ("FAILED", None, 1, "the supervisor died … of that"),
    ],
)  # fmt: skip
def test_the_jobs_own_code_is_given_on(status: Any, code: int | None, exit_code: int, loss: str) -> None:
    ended = Submission("x", status, "the supervisor died\nTraceback\n of that \n", code)
    assert ended.exit_code() == exit_code
    assert loss in ended.loss()
    assert bool(ended.loss()) == bool(loss)


def test_what_the_cluster_says_of_a_job_is_read_without_its_secrets() -> None:
    row = {
        "submission_id": "x", "status": "RUNNING", "start_time": 2000, "end_time": None, "message": None,
        "metadata": {BASE: "b"}, "runtime_env": {"env_vars": {"TOKEN": "hunter2"}}, "driver_exit_code": None,
    }  # fmt: skip
    found = Submission.parse(row)
    assert (found.base, found.started, found.ended, found.is_alive) == ("b", 2.0, 0.0, True)
    assert "hunter2" not in repr(found)


@given(st.dictionaries(st.text("abc/文.", min_size=1), st.binary(), max_size=5))
def test_an_archive_depends_on_its_files_alone(files: dict[str, bytes]) -> None:
    files = {name.strip("/") + "x": data for name, data in files.items()}
    assert unpacked(packed(files)) == files
    assert packed(dict(reversed(files.items()))) == packed(files)


@given(st.text(), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6))
def test_a_text_that_begins_anew_is_seen_once(text: str, connections: list[tuple[int, int]]) -> None:
    unseen, seen = Unseen(), ""
    for reached, step in [*connections, (len(text), 7)]:
        unseen.again()
        for at in range(0, min(reached, len(text)), step):
            seen += unseen.take(text[at : min(at + step, reached)])
    assert seen == text


@given(st.lists(st.text('ab{"中 ', max_size=9), max_size=6), st.integers(1, 9), st.booleans())
def test_output_is_shown_but_for_the_object_at_its_end(lines: list[str], step: int, has_end: bool) -> None:
    result = {"status": "done", "artifacts": []}
    decoy = json.dumps({"status": "x"})  # in the middle it is a line like others
    shown = [decoy, *lines]
    text = "".join(f"{line}\n" for line in shown) + ("last" if not has_end else json.dumps(result))
    found: list[str] = []
    output = Output(found.append)
    for at in range(0, len(text), step):
        output.take(text[at : at + step])
    ended = output.end()
    assert ended == (result if has_end else None)
    assert "".join(found) == "".join(f"{line}\n" for line in shown) + ("last\n" if not has_end else "")


def test_a_line_that_only_looks_like_the_object_is_shown() -> None:
    found: list[str] = []
    output = Output(found.append)
    output.take('{"status": broken\n')
    assert output.end() is None
    assert found == ['{"status": broken\n']
