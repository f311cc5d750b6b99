"""``jobs/finetune/lora-7b.yaml``: it checks, and its header states the memory that the formula gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmyard.advice.candidates import shape_of
from llmyard.advice.catalogue import catalogue
from llmyard.advice.jobs import init_of
from llmyard.advice.memory import Way, memory_of
from llmyard.cli.main import main
from llmyard.cli.shell import shell
from llmyard.core.jobfile import load_job
from llmyard.stages.config import Finetune, job_adapter

RECIPE = Path(__file__).parents[3] / "jobs" / "finetune" / "lora-7b.yaml"


@pytest.fixture(autouse=True)
def fresh_shell() -> None:
    shell.json = shell.debug = False


def tuned() -> Finetune:
    stage = load_job(RECIPE, job_adapter()).stages[0]
    assert isinstance(stage, Finetune)
    return stage


def test_the_header_states_what_the_formula_gives() -> None:
    stage = tuned()
    model = next(each for each in catalogue().models if stage.init.startswith(f"hub:{each.name}"))
    assert init_of(model) == (stage.init, stage.tokenizer)
    assert stage.method.kind == "lora"
    shape = shape_of(model)
    way = Way(
        "lora", rank=stage.method.rank, micro_batch=stage.batch.micro_batch, length=stage.task.longest(model.family),
        on_gpu=True, checkpointing=stage.activation_checkpointing, logits=not stage.fused_loss,
    )  # fmt: skip
    memory = memory_of(shape, way)
    header = RECIPE.read_text(encoding="utf-8").partition("kind: pipeline")[0]
    gb = {name: f"{getattr(memory, name) / 1e9:.1f}" for name in ("weights", "gradients", "optimizer", "activations")}
    assert (
        f"weights {gb['weights']} GB (bfloat16), gradients {gb['gradients']}, optimizer {gb['optimizer']}, "
        f"activations {gb['activations']}; total {memory.total / 1e9:.1f} GB"
    ) in header
    assert (
        f"权重 {gb['weights']} GB（bfloat16）、梯度 {gb['gradients']}、优化器 {gb['optimizer']}、"
        f"激活 {gb['activations']}，合计 {memory.total / 1e9:.1f} GB"
    ) in header
    assert f"{3 * shape.stored * shape.embedding / 1e9:.1f} GB are the token vectors'" in header
    assert memory.total < 0.88 * 24e9
    assert f"{model.parameters / 1e9:.2f} billion weights" in header


def test_check_accepts_it_without_the_hub_where_data_and_commit_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object, **named: object) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refused)
    data = tmp_path / "mine.jsonl"
    data.write_text('{"instruction": "说好", "output": "好"}\n', encoding="utf-8")
    own = ["--set", f"stages.instructed.data={{kind: records, format: alpaca, train: {data}}}"]
    assert main(["check", str(RECIPE), *own, "--storage", str(tmp_path / "store")]) == 0
    assert "instructed" in capsys.readouterr().out
    more = ["--set", "stages.instructed.resources.workers=8"]
    assert main(["check", str(RECIPE), *own, *more, "--storage", str(tmp_path / "store")]) == 0


def test_check_accepts_a_folder_in_place_of_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Yi-1.5-6B"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    data = tmp_path / "mine.jsonl"
    data.write_text('{"instruction": "说好", "output": "好"}\n', encoding="utf-8")
    sets = [
        f"stages.instructed.data={{kind: records, format: alpaca, train: {data}}}",
        f"stages.instructed.init=hub:{folder}",
        "stages.instructed.tokenizer=hub-Yi-1.5-6B",
    ]
    given = [part for each in sets for part in ("--set", each)]
    assert main(["check", str(RECIPE), *given, "--storage", str(tmp_path / "store")]) == 0
