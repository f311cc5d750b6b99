"""What a running job shows, on a terminal and in a log."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from llmyard.cli.view import JobView, results_table
from llmyard.core.artifacts import ArtifactStore
from llmyard.core.storage import Storage
from llmyard.stages.config import Prepare
from llmyard.stages.stage import StageResult

PREPARE = Prepare.model_validate({"output": "corpus", "sources": [{"kind": "smallworld"}]})


@pytest.fixture
def result(tmp_path: Path) -> StageResult:
    with ArtifactStore(Storage(str(tmp_path))).begin("shards", "corpus", "1") as draft:
        artifact = draft.commit(config={}, parents=[], metrics={"tokens_train": 1234.0})
    return StageResult("prepare", (artifact,), artifact.metrics, 1.0, False, "abcdef0123")


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=150)


def said(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_without_a_terminal_the_start_of_ray_is_said_once(result: StageResult) -> None:
    shown = console()
    with JobView(shown, live=False, stages=1) as view:
        assert said(shown) == ""
        for _ in range(2):
            logging.getLogger("llmyard.runtime.session").info("starting Ray")
        assert said(shown) == "starting Ray …\n"
        view.stage(PREPARE).update(1, 2)
        view.result(result)
    logging.getLogger("llmyard.runtime.session").info("starting Ray")  # nobody's job
    assert said(shown).splitlines()[1:] == [
        "prepare corpus: 1/2", f"prepare corpus: 1.0 s, {result.artifacts[0].reference}",
    ]  # fmt: skip


def test_plain_lines_say_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, now = console(), 100.0
    monkeypatch.setattr("llmyard.cli.view.time.monotonic", lambda: now)
    with JobView(shown, live=False, stages=1) as view:
        stage = view.stage(PREPARE)
        stage.update(0, 1, "encoding examples")  # takes as long as it takes, and tells nothing of the steps
        now = 200.0
        for now, done in ((200.0, 10), (205.0, 15), (220.0, 20)):  # noqa: B007 - read by the clock above
            stage.update(done, 50, "loss 1.0")
    assert said(shown).splitlines()[1:] == [
        "prepare corpus: 10/50  loss 1.0",
        "prepare corpus: 20/50  1 min 00 s left  loss 1.0",
    ]


def test_the_bars_rest_when_the_last_stage_is_done(result: StageResult) -> None:
    view = JobView(console(terminal=True), live=True, stages=2)
    with view:
        logging.getLogger("llmyard.runtime.session").info("starting Ray")
        assert [task.description for task in view._bars.tasks] == ["starting Ray …"]
        view.stage(PREPARE)
        assert [task.description for task in view._bars.tasks] == ["prepare corpus"]
        view.result(result)
        assert view._bars.live.is_started
        view.result(result)
        assert not view._bars.live.is_started  # Ray still stops for some seconds


@pytest.mark.parametrize(("language", "figure"), [("en", "1,234 tokens"), ("zh", "1,234 个词元")])
def test_the_last_table_names_what_each_stage_made(
    result: StageResult, monkeypatch: pytest.MonkeyPatch, language: str, figure: str
) -> None:
    monkeypatch.setenv("LLMYARD_LANG", language)
    shown = console()
    shown.print(results_table([result]))
    assert "prepare corpus" in said(shown)
    assert figure in said(shown)


@pytest.mark.parametrize(("language", "words"), [("en", "tokens/s  MFU 41%"), ("zh", "词元/秒  MFU 41%")])
def test_figures_of_a_training_are_shown_in_their_order(
    language: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMYARD_LANG", language)
    shown = console()
    with JobView(shown, live=False, stages=1) as view:
        figures = {"checkpoint_age": 12.4, "mfu": 0.412, "loss": 3.14159, "tokens_per_second": 12345.6, "unknown": 1.0}
        view.stage(PREPARE).update(10, 100, **figures)
    line = said(shown)
    assert f"3.142  12,346 {words}" in line
    assert "12 " in line.partition("MFU")[2]
    assert "unknown" not in line
