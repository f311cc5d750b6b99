"""The command line without Ray: exit codes, messages, JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.cli.view import duration
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage

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


def test_check_prints_a_plan_for_every_shipped_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gutenberg_en/a.txt", "chinese_poetry/a.json", "tatoeba_cmn/cmn.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        text = '[{"content": "床前明月光"}]' if name.endswith("json") else "x\ty\n"
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("LLMYARD_DATA", str(tmp_path))
    jobs = sorted((ROOT / "jobs").glob("*.yaml"))
    assert jobs
    for job in jobs:
        assert main(["check", str(job), "--storage", str(tmp_path / "store"), "--json", "--price-per-hour", "2"]) == 0
        plan = last_json(capsys.readouterr().out)["plan"]
        assert isinstance(plan, list)
        assert all(row["state"] == "run" for row in plan)
        assert any(row.get("cost") for row in plan)


@pytest.mark.parametrize(
    ("lines", "message"),
    [("", "has no document"), ('{"text": "a"}\n{"text": 1}\nno\n', "2 of the first 3 records of source 'files'")],
)
def test_check_refuses_a_corpus_that_cannot_be_read(
    lines: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data.jsonl").write_text(lines, encoding="utf-8")
    job = tmp_path / "job.yaml"
    source = f"{{kind: files, paths: [{tmp_path}/data.jsonl], format: jsonl}}"
    job.write_text(f"{{kind: prepare, output: corpus, sources: [{source}]}}", encoding="utf-8")
    assert main(["check", str(job), "--storage", str(tmp_path / "store")]) == 2
    assert message in capsys.readouterr().err


def test_a_job_on_files_names_the_variable_that_is_not_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMYARD_DATA", raising=False)
    assert main(["check", str(ROOT / "jobs" / "books-and-poems.yaml")]) == 2
    assert "LLMYARD_DATA is not set" in capsys.readouterr().err


def test_check_names_a_missing_artifact_and_what_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("{kind: evaluate, output: report, checkpoint: nowhere}", encoding="utf-8")
    assert main(["run", str(job), "--storage", str(tmp_path / "store")]) == 2
    assert "no checkpoint 'nowhere'" in capsys.readouterr().err


def test_init_writes_a_project_that_checks_and_refuses_a_full_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["init", str(tmp_path / "mine")]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["check", "job.yaml"]) == 0
    assert main(["init", str(tmp_path / "mine")]) == 2
    assert "not an empty folder" in capsys.readouterr().err


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


@pytest.mark.parametrize("storage", ["/proc/nowhere", __file__])
@pytest.mark.parametrize("command", [["run", "JOB"], ["check", "JOB"], ["quickstart"]])
def test_a_storage_that_cannot_be_is_a_wrong_request_before_ray_starts(
    command: list[str], storage: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("words", encoding="utf-8")
    job = tmp_path / "job.yaml"
    source = f"{{kind: files, paths: [{tmp_path}/text.txt]}}"
    job.write_text(f"{{kind: prepare, output: corpus, sources: [{source}]}}", encoding="utf-8")
    arguments = [str(job) if each == "JOB" else each for each in command]
    assert main([*arguments, "--storage", storage]) == 2
    assert storage in capsys.readouterr().err


def test_quickstart_tells_a_wrong_setting_without_starting_ray(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmyard.runtime.session.session", lambda: pytest.fail("Ray was started"))
    assert main(["quickstart", "--set", "stages.base.stepz=1"]) == 2
    assert "stepz" in capsys.readouterr().err


def test_looking_for_runs_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    storage = tmp_path / "none"
    assert main(["runs", "list", "--storage", str(storage)]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert main(["runs", "compare", "a", "b", "--storage", str(storage)]) == 2
    assert not storage.exists()


def test_ask_and_serve_refuse_what_makes_no_sense(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--storage", str(tiny.store.storage.uri)]
    name = next(item.name for item in tiny.store.list("checkpoint"))
    assert main(["ask", name, "  ", *where]) == 2
    assert "the text is empty" in capsys.readouterr().err
    assert main(["ask", name, "hello", "--context", "a text", *where]) == 2
    assert "takes no --context" in capsys.readouterr().err
    assert main(["serve", name, name, *where]) == 2
    assert "is named twice" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["Malo", "马洛"])
def test_the_neighbours_of_a_word_are_shown(word: str, tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--storage", str(tiny.store.storage.uri), "--json"]
    for item in tiny.store.list("checkpoint"):
        assert main(["artifacts", "show", item.name, "--neighbours", word, *where]) == 0
        found = last_json(capsys.readouterr().out)["neighbours"]
        assert isinstance(found, list)
        assert len(found) == 10


def test_init_where_nothing_can_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "/proc/project"]) == 2
    assert "cannot write /proc/project" in capsys.readouterr().err


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
