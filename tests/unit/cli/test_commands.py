"""The command line without Ray: exit codes, messages, JSON."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.cli.view import duration
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.errors import LlmyardError
from llmyard.core.storage import Storage
from llmyard.serving import keys
from llmyard.serving.replica import Opening

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def fresh_shell() -> None:
    shell.json = shell.debug = False


def last_json(text: str) -> dict[str, object]:
    answer: dict[str, object] = json.loads(text.strip().splitlines()[-1])
    return answer


def test_a_missing_job_file_is_a_wrong_request_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "jobs/quikstart.yaml"]) == 2
    assert "remedy" in capsys.readouterr().err


def test_an_unknown_command_or_option_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu", "x"]) == 2
    assert main(["run", "--frce", "x"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_json_ends_in_one_object_also_on_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nowhere.yaml", "--json"]) == 2
    answer = last_json(capsys.readouterr().out)
    assert answer["status"] == "failed"
    assert "nowhere.yaml" in str(answer["error"])


def test_init_writes_a_project_that_checks_and_refuses_a_full_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["init", str(tmp_path / "mine")]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["check", "job.yaml"]) == 0
    assert main(["init", str(tmp_path / "mine")]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_init_ends_in_the_command_as_the_user_called_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMYARD_COMMAND", "bash cluster/local")
    assert main(["init", "my project"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("cd 'my project' && bash ../cluster/local check job.yaml && bash ../cluster/local run job.yaml")
    )
    for folder in ("/proc/project", "/dev/null/project"):
        assert main(["init", folder]) == 2
        said = capsys.readouterr().err
        assert f"cannot write {folder}" in said or "is not an empty folder" in said
        assert "--debug" not in said


def test_quickstart_refuses_a_wrong_override_before_ray_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from llmyard.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, [name for name in ('ray', 'torch', 'mlflow') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "quickstart", "--set", "stages.base.stepz=1", "--storage", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "2 []"
    assert "did you mean 'steps'" in ended.stderr


@pytest.mark.parametrize("command", [["runs", "list"], ["artifacts", "list"], ["keys", "list"], ["check", "job.yaml"]])
def test_reading_makes_no_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(
        "{kind: prepare, output: corpus, sources: [{kind: smallworld, documents: 9}]}", encoding="utf-8"
    )
    assert main([*command, "--storage", str(tmp_path / "no" / "store")]) == 0
    assert not (tmp_path / "no").exists()
    assert main(["ask", "models:/m@champion", "x", "--storage", str(tmp_path / "no")]) == 2
    assert "no runs are recorded" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_tables_and_their_headings_are_in_the_users_language(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMYARD_LANG", "zh")
    where = ["--storage", str(tmp_path / "store")]
    assert main(["artifacts", "list", *where]) == 0
    assert capsys.readouterr().out == "还没有产物\n"
    assert main(["check", str(ROOT / "jobs" / "quickstart.yaml"), *where]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("阶段", "参数量", "每个 worker 的内存", "词元", "设备小时", "运行", "合计"))
    assert main(["check", str(ROOT / "jobs" / "quickstart.yaml"), *where, "--json"]) == 0
    assert '"parameters"' in capsys.readouterr().out  # for programs there is one language


def test_ask_refuses_what_the_task_does_not_take_before_the_model_is_read(
    capsys: pytest.CaptureFixture[str], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmyard.generation.model.Model.load", lambda artifact: pytest.fail("it was read"))
    where = ["--storage", tiny.store.storage.uri]
    assert main(["ask", "translator", "", *where]) == 2
    assert "the text is empty" in capsys.readouterr().err
    assert main(["ask", "triples", "x", "--context", "y", *where, "--json"]) == 2
    assert "takes no context" in str(last_json(capsys.readouterr().out)["error"])


def test_ask_says_that_nothing_was_found(
    capsys: pytest.CaptureFixture[str], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmyard.generation.asking import Reply

    async def nothing(*arguments: object) -> Reply:
        return Reply("", triples=())

    monkeypatch.setattr("llmyard.generation.asking.ask", nothing)
    where = ["--storage", tiny.store.storage.uri]
    assert main(["ask", "triples", "Nothing here.", *where]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert main(["ask", "triples", "Nothing here.", *where, "--json"]) == 0
    assert last_json(capsys.readouterr().out)["text"] == ""


def test_one_model_is_not_served_twice(capsys: pytest.CaptureFixture[str], tiny: Any) -> None:
    assert main(["serve", "base", "checkpoint/base", "--storage", tiny.store.storage.uri]) == 2
    assert "names checkpoint/base@" in capsys.readouterr().err


def test_a_key_is_stored_once_the_endpoint_is_up_only(
    capsys: pytest.CaptureFixture[str], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Opening] = []
    before = set(keys.hashes(tiny.store.storage))  # other tests serve from this store too

    @contextlib.contextmanager
    def serving(config: object, opening: Opening) -> Iterator[str]:
        asked.append(opening)
        assert set(keys.hashes(tiny.store.storage)) == before
        if len(asked) == 1:
            raise LlmyardError("the endpoint did not start: no weights", "mend it")
        yield "http://127.0.0.1:1"

    def stopped(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmyard.serving.endpoint.serving", serving)
    monkeypatch.setattr("llmyard.runtime.session.session", contextlib.nullcontext)
    monkeypatch.setattr("llmyard.cli.serve.time.sleep", stopped)
    command = ["serve", "base", "--new-key", "--storage", tiny.store.storage.uri]
    assert main(command) == 1
    assert set(keys.hashes(tiny.store.storage)) == before
    assert main(command) == 130
    (stored,) = set(keys.hashes(tiny.store.storage)) - before
    said = capsys.readouterr()
    assert keys.hash_of(next(word for word in said.out.split() if word.startswith(keys.PREFIX))) == stored
    assert stored in {key.sha256 for key in asked[1].keys()}  # noqa: SIM118 (read anew)
    assert "interrupted" in said.err
    assert main(["keys", "revoke", stored[:12], *command[3:]]) == 0
    assert set(keys.hashes(tiny.store.storage)) == before


def test_a_key_is_made_with_its_limits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--storage", str(tmp_path)]
    more = ["--name", "夜间任务", "--requests", "60", "--days", "7"]
    assert main(["keys", "make", *more, *where, "--json"]) == 0
    made = last_json(capsys.readouterr().out)
    assert main(["keys", "list", *where, "--json"]) == 0
    (row,) = last_json(capsys.readouterr().out)["keys"]
    assert (row["name"], row["requests_per_minute"], row["key"]) == ("夜间任务", 60, made["hash"])
    assert keys.hash_of(made["key"]).startswith(made["hash"])
    assert row["expires"] > row["created"]


@pytest.mark.parametrize(
    ("replicas", "found"), [("1", (1, 1)), ("0-2", (0, 2)), ("2-4", (2, 4)), ("0", None), ("3-2", None), ("x", None)]
)
def test_replicas_are_a_number_or_bounds(replicas: str, found: tuple[int, int] | None) -> None:
    from llmyard.cli.serve import scale_of
    from llmyard.core.errors import RequestError

    if found is None:
        with pytest.raises(RequestError, match="LEAST-MOST"):
            scale_of(replicas)
    else:
        scale = scale_of(replicas)
        assert (scale.least, scale.most) == found


def test_a_failed_doctor_prints_one_object_with_its_checks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmyard.cli.doctor._NEEDED_MEMORY", float("inf"))
    assert main(["doctor", "--json", "--storage", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer["status"] == "failed"
    assert [row["what"] for row in answer["checks"] if not row["ok"]] == ["memory available"]
    assert main(["check", "nowhere.yaml", "--json"]) == 2
    assert "checks" not in last_json(capsys.readouterr().out)


def test_printed_commands_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from llmyard.cli.quickstart import next_steps

    next_steps(Console(width=300), "/data/my store[1]")
    lines = capsys.readouterr().out.splitlines()
    (served,) = [line for line in lines if " serve " in line]
    assert shlex.split(served, comments=True)[-2:] == ["--storage", "/data/my store[1]"]
    (page,) = [line for line in lines if "mlflow ui" in line]
    assert shlex.split(page, comments=True)[-1] == "sqlite:////data/my store[1]/mlflow.db"
    assert "workflowType=machine_learning" in page


def test_schema_is_json_and_knows_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"Prepare", "Pretrain", "Finetune", "Evaluate", "Pipeline"} <= set(schema["$defs"])


def test_every_message_exists_in_both_languages_with_the_same_placeholders() -> None:
    messages = yaml.safe_load((ROOT / "platform/llmyard/cli/messages.yaml").read_text(encoding="utf-8"))
    for key, texts in messages.items():
        assert set(texts) == {"en", "zh"}, key
        assert texts["en"].count("{") == texts["zh"].count("{"), key


def test_import_list_show_remove(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"问": "答"}\n', encoding="utf-8")
    where = ["--storage", str(tmp_path / "store")]
    assert main(["artifacts", "import", "records", str(rows), "faq", *where]) == 0
    assert main(["artifacts", "import", "records", str(rows), "faq", *where]) == 0  # the same content: the same version
    store = ArtifactStore(Storage(str(tmp_path / "store")))
    assert len(list(store.list())) == 1
    assert store.get("faq").local("rows.jsonl").read_text(encoding="utf-8") == '{"问": "答"}\n'
    capsys.readouterr()
    assert main(["artifacts", "show", "faq", *where, "--json"]) == 0
    assert last_json(capsys.readouterr().out)["details"] == {"records": 1}
    assert main(["artifacts", "remove", "faq", *where]) == 0
    assert main(["artifacts", "show", "faq", *where]) == 2


def test_lineage_names_the_files_of_corpus_and_examples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = ArtifactStore(Storage(str(tmp_path / "store")))
    sources = [{"kind": "files", "name": "books", "paths": ["data/*.txt"]}]
    corpus = {"files": 7, "bytes": 1234, "sources": sources}
    with store.begin("tokenizer", "corpus", "1") as draft:
        tokenizer = draft.commit(config={"kind": "bpe"}, parents=[], metrics={}, details={"corpus": corpus})
    with store.begin("shards", "corpus", "2") as draft:
        lines = "".join(json.dumps({"path": f"data/{index}.txt"}) + "\n" for index in range(7))
        draft.storage.write(f"{draft.folder}/sources.jsonl", lines.encode())
        shards = draft.commit(config={}, parents=[tokenizer.reference], metrics={}, details={"corpus": corpus})
    data = {"kind": "records", "train": "pairs/train.jsonl", "validation": "pairs/v.jsonl", "test": "pairs/t.jsonl"}
    with store.begin("shards", "examples", "3") as draft:
        examples = draft.commit(config={"data": data}, parents=[shards.reference], metrics={})
    where = ["--storage", str(tmp_path / "store")]
    assert main(["artifacts", "lineage", examples.reference, *where]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("pairs/train.jsonl", "pairs/v.jsonl", "pairs/t.jsonl", "data/0.txt"))
    assert f"… and 2 more; all in {shards.uri}/sources.jsonl" in said
    assert said.rstrip().endswith("data/*.txt")  # the tokenizer has no listing of its own: what its job names
    assert main(["artifacts", "lineage", examples.reference, *where, "--json"]) == 0
    rows = last_json(capsys.readouterr().out)["lineage"]
    assert isinstance(rows, list)
    assert [len(row["files"]) for row in rows] == [3, 7, 1]


def test_a_copied_artifact_is_its_own_and_removing_it_leaves_the_original(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "谁？"}\n', encoding="utf-8")
    where = ["--storage", str(tmp_path / "store")]
    assert main(["artifacts", "import", "records", str(rows), "faq", *where]) == 0
    store = ArtifactStore(Storage(str(tmp_path / "store")))
    original = store.get("faq")
    assert main(["artifacts", "import", "records", str(original.local()), "copy", *where]) == 0
    copy = store.get("copy")
    assert copy.reference != original.reference
    assert {entry.path for entry in copy.files()} == {"rows.jsonl"}
    assert main(["artifacts", "remove", "copy", *where]) == 0
    assert [item.name for item in store.list()] == ["faq"]
    assert original.local("rows.jsonl").read_bytes() == rows.read_bytes()
    # A folder that was copied by hand is told from the artifact it was.
    shutil.copytree(original.local(), tmp_path / "store" / "records" / "ghost" / original.version)
    capsys.readouterr()
    assert main(["artifacts", "show", "ghost", *where]) == 1
    assert f"is that of {original.reference}" in capsys.readouterr().err
    assert original.is_complete()


def test_looking_for_runs_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    storage = tmp_path / "none"
    assert main(["runs", "list", "--storage", str(storage)]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert main(["runs", "compare", "a", "b", "--storage", str(storage)]) == 2
    assert not storage.exists()


@pytest.mark.parametrize("word", ["Malo", "马洛"])
def test_the_neighbours_of_a_word_are_shown(word: str, tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--storage", str(tiny.store.storage.uri), "--json"]
    for item in tiny.store.list("checkpoint"):
        assert main(["artifacts", "show", item.name, "--neighbours", word, *where]) == 0
        found = last_json(capsys.readouterr().out)["neighbours"]
        assert isinstance(found, list)
        assert len(found) == 10


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "modeling_x.py"])
def test_a_checkpoint_that_could_run_code_is_not_imported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    (folder / name).write_bytes(b"")
    assert main(["artifacts", "import", "checkpoint", str(folder), "m", "--storage", str(tmp_path / "store")]) == 2
    assert "can run code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (59.7, "1 min 00 s"), (91.5, "1 min 32 s"), (600, "10 min 00 s")]
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_version_needs_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("0.")
