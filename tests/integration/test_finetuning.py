"""Ways of fine-tuning on a private Ray: what is made, what answers, what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import DataError, RequestError
from llmyard.core.storage import Storage
from llmyard.generation.asking import ask
from llmyard.generation.model import Model
from llmyard.stages.config import job_adapter
from llmyard.stages.run import run
from llmyard.tasks.task import Annotation

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shared_ray"), pytest.mark.timeout(1500)]

TINY = {"hidden_size": 16, "heads": 2}
TRAINING = {"steps": 2, "batch": {"size": 8, "micro_batch": 4}, "resources": {"workers": 1}}
WORLD = {"kind": "smallworld", "train": 40, "validation": 12, "test": 12}
WRITER = {"family": "transformer", "encoder_layers": 1, "decoder_layers": 1, "feed_forward_size": 32, **TINY}


def pairs(path: Path, split: str, count: int) -> str:
    rows = [
        {
            "id": f"{split}-{at}", "language": "zh", "messages": [{"role": "user", "content": f"{split} 第{at}问"}],
            "chosen": f"好的，{at}。", "rejected": "不。",
        }
        for at in range(count)
    ]  # fmt: skip
    file = path / f"{split}.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return str(file)


def chat_model(folder: Path) -> str:
    """Writes a tiny model in the hub's layout that has a chat template of its own; returns what `init` names."""
    from tokenizers import Tokenizer as Backend
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from llmyard.models.families import save
    from llmyard.tokens.config import BpeTokenizer
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    texts = ["请提醒我，明天去公园。 Noted: tomorrow. user assistant"] * 8
    backend = Backend.from_str(Tokenizer.train(texts, BpeTokenizer(vocab_size=330, split_han=True)).to_json())
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Tokenizer(backend)
    shape = Qwen2Config(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=32, max_position_embeddings=320,
    )  # fmt: skip
    save(Qwen2ForCausalLM(shape), folder)
    tokenizer.save(folder / FILE)
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    return f"hub:{folder}"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def made(storage: Path) -> dict[str, Artifact]:
    """Everything in one pipeline: each stage costs seconds, each start of Ray more."""
    preferences = {"kind": "records", "max_bad_share": 0.0} | {
        split: pairs(storage, split, count) for split, count in (("train", 16), ("validation", 4), ("test", 4))
    }
    tuned = {"kind": "finetune", "tokenizer": "corpus", "data": WORLD, **TRAINING}
    graph = {"kind": "knowledge_graph", "max_tokens": 200, "max_target_tokens": 300}
    job = {
        "kind": "pipeline",
        "name": "tuning",
        "stages": [
            {
                "kind": "prepare", "output": "corpus", "sources": [{"kind": "smallworld", "documents": 200}],
                "tokenizer": {"vocab_size": 500, "split_han": True}, "splits": {"validation": 0.1},
            },
            {
                "kind": "pretrain", "output": "base", "shards": "corpus",
                "model": {"family": "gpt2", "layers": 1, **TINY}, "sequence_length": 600, **TRAINING,
            },
            {**tuned, "output": "graph-lora", "task": graph, "init": "base", "method": {"kind": "lora"}},
            {
                **tuned, "output": "answers-prompt", "init": "base", "method": {"kind": "prompt_tuning", "tokens": 4},
                "task": {"kind": "question_answering", "max_tokens": 300},
            },
            {
                **tuned, "output": "many", "task": {"kind": "translation"}, "model": WRITER,
                "also": [{"task": {"kind": "summarization"}, "data": WORLD, "weight": 2}],
                "evaluate_every_steps": 1, "metric_examples": 6, "keep_best": True, "adversarial": {"kind": "fgm"},
                "resources": {"workers": 2},
            },
            {
                **tuned, "output": "student", "task": {"kind": "translation"}, "model": WRITER,
                "distillation": {"teacher": "teacher"},
            },
            {**tuned, "output": "prefers", "task": {"kind": "preference"}, "data": preferences, "init": "base"},
            {
                **tuned, "output": "asks-otherwise", "task": {"kind": "question_answering", "max_tokens": 300},
                "model": {"family": "gpt2", "layers": 1, **TINY},
                "augment": {"back_translate": "teacher", "disturb": {"typos": 0.2}},
            },
            {
                **tuned, "output": "speaks", "init": chat_model(storage / "chatty"), "tokenizer": "hub-chatty",
                "task": {"kind": "dialogue", "template": "model", "max_source_tokens": 250, "max_target_tokens": 64},
            },
            {"kind": "evaluate", "output": "speaks-report", "checkpoint": "speaks", "limit": 4},
            {"kind": "evaluate", "output": "graph-report", "checkpoint": "graph-lora", "limit": 6},
            {"kind": "evaluate", "output": "answers-report", "checkpoint": "answers-prompt", "limit": 6},
            {
                "kind": "evaluate", "output": "summaries-report", "checkpoint": "many", "limit": 6,
                "task": {"kind": "summarization"}, "data": WORLD,
            },
            {
                "kind": "evaluate", "output": "student-report", "checkpoint": "student", "compare_to": "teacher",
                "limit": 6,
            },
            {"kind": "evaluate", "output": "prefers-report", "checkpoint": "prefers"},
            {
                "kind": "evaluate", "output": "few-report", "checkpoint": "base", "shots": 1, "limit": 6,
                "task": {"kind": "question_answering"}, "data": WORLD,
            },
        ],
    }  # fmt: skip
    teacher = {**tuned, "output": "teacher", "task": {"kind": "translation"}, "model": WRITER}
    job["stages"].insert(2, teacher)  # type: ignore[attr-defined]
    results = run(job_adapter().validate_python(job), storage=str(storage))
    return {result.artifacts[0].name: result.artifacts[0] for result in results}


def report(made: dict[str, Artifact], name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made[name].local("report.json").read_text(encoding="utf-8"))["splits"]["test"]
    return found


def test_an_adapter_is_small_names_its_base_and_answers(made: dict[str, Artifact]) -> None:
    adapter, base = made["graph-lora"], made["base"]
    assert adapter.details["adapter_of"] == base.reference
    assert base.reference in adapter.parents
    names = {entry.path for entry in adapter.files()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    model = Model.load(adapter, threads=1)
    found = asyncio.run(model.predict({"text": "马洛住在科拉镇。"}))
    assert found is None or isinstance(found, Annotation)  # JSON of the shape, unless it was cut
    assert report(made, "graph-report")["examples"] == 6


def test_tuned_prompts_stand_before_every_prompt(made: dict[str, Artifact]) -> None:
    artifact = made["answers-prompt"]
    assert len(artifact.details["prompt_ids"]) == 4
    assert sum(entry.size for entry in artifact.files() if entry.path.endswith(".safetensors")) < 10_000
    model = Model.load(artifact, threads=1)
    prompt = model.prompt({"question": "谁？", "context": "马洛。", "answers": [], "language": "zh"})
    assert prompt[:4] == artifact.details["prompt_ids"]
    asyncio.run(ask(model, "谁？", context="马洛。"))


def test_one_model_learns_two_tasks_each_behind_its_name(made: dict[str, Artifact]) -> None:
    artifact = made["many"]
    assert [each["task_config"]["kind"] for each in artifact.details["also"]] == ["summarization"]
    assert artifact.details["also"][0]["prompt_ids"] != artifact.details["prompt_ids"]
    assert {"validation_loss", "validation_loss/summarization", "validation_chrf"} <= set(artifact.metrics)
    assert "rouge_l" in report(made, "summaries-report")["metrics"]
    assert report(made, "summaries-report")["baseline_name"] == "first two sentences"


def test_a_model_of_a_hub_goes_on_with_its_own_chat_template(made: dict[str, Artifact]) -> None:
    tuned = made["speaks"]
    written = tuned.details["task_config"]
    assert "<|im_start|>" in written["template"]
    assert written["turn_end"] == "<|im_end|>"
    assert made["speaks-report"].metrics.keys() >= {"test/rouge_l"}
    model = Model.load(tuned)
    asked = model.chat_prompt([{"role": "user", "content": "明天去公园。"}])
    assert model.tokenizer.decode(asked) == "user\n明天去公园。\nassistant\n"
    assert asked[0] == model.tokenizer.control("<|im_start|>")
    assert model.decoding.end_tokens == ("<|im_end|>",)


def test_examples_are_disturbed_and_translated_back(made: dict[str, Artifact], storage: Path) -> None:
    tuned = made["asks-otherwise"]
    (translator,) = [each for each in tuned.parents if each.startswith("checkpoint/teacher@")]
    data = ArtifactStore(Storage(str(storage))).get("asks-otherwise-data", "shards")
    assert translator not in data.parents  # the stage's own; the data are known by its reference
    assert data.metrics["train"] > 1.2 * 40  # what an untrained translator says is mostly thrown away


def test_back_translation_needs_a_translator(made: dict[str, Artifact], storage: Path) -> None:
    job = {
        "kind": "finetune", "output": "none", "tokenizer": "corpus", "data": WORLD, **TRAINING, "model": WRITER,
        "task": {"kind": "summarization"}, "augment": {"back_translate": "graph-lora"},
    }  # fmt: skip
    with pytest.raises(RequestError, match="does not translate"):
        run(job_adapter().validate_python(job), storage=str(storage))
    with pytest.raises(ValueError, match="changes nothing"):
        job_adapter().validate_python({**job, "augment": {}})
    with pytest.raises(ValueError, match="not for knowledge_graph"):
        job_adapter().validate_python({**job, "task": {"kind": "knowledge_graph"}})


def test_two_models_are_compared_on_the_same_examples(made: dict[str, Artifact]) -> None:
    found = report(made, "student-report")
    difference = found["metrics"]["chrf"] - found["other"]["chrf"]
    assert found["against_other"]["chrf"]["difference"] == pytest.approx(difference)
    page = made["student-report"].local("report.zh.html").read_text(encoding="utf-8")
    assert "与另一模型比较" in page


def test_preferences_and_plain_questions_are_measured(made: dict[str, Artifact]) -> None:
    assert set(report(made, "prefers-report")["metrics"]) == {"accuracy"}
    few = report(made, "few-report")
    assert few["examples"] == 6
    assert few["errors"]


def test_examples_that_are_asked_in_training_too_are_refused_or_left_out(
    made: dict[str, Artifact], storage: Path
) -> None:
    row = {"source_language": "en", "target_language": "zh", "target": "你好。"}
    rows = [{**row, "source": f"Hello number {at}."} for at in range(20)]
    for name, chosen in (("train", rows), ("held", [rows[3], {**row, "source": "Other."}])):
        text = "\n".join(json.dumps(each, ensure_ascii=False) for each in chosen)
        (storage / f"{name}.jsonl").write_text(text, encoding="utf-8")
    data = {"kind": "records", "train": str(storage / "train.jsonl")}
    data |= {split: str(storage / "held.jsonl") for split in ("validation", "test")}
    stage = {"kind": "finetune", "tokenizer": "corpus", "task": {"kind": "translation"}, "data": data, "model": WRITER}
    stage |= TRAINING
    with pytest.raises(DataError, match="1 of 2 different held-out examples are asked in training"):
        run(job_adapter().validate_python({**stage, "output": "leaky"}), storage=str(storage))
    (result,) = run(
        job_adapter().validate_python({**stage, "output": "dropped", "leaks": "drop"}), storage=str(storage)
    )
    store = ArtifactStore(Storage(str(storage)))
    assert store.get(f"{result.artifacts[0].name}-data", "shards").metrics["leaked"] == 1.0


def test_an_adapter_is_no_base_and_a_teacher_must_know_the_task(made: dict[str, Artifact], storage: Path) -> None:
    stage = {"kind": "finetune", "output": "x", "tokenizer": "corpus", "data": WORLD, **TRAINING}
    adapter = {**stage, "task": {"kind": "knowledge_graph"}, "init": "graph-lora"}
    with pytest.raises(RequestError, match="is an adapter of checkpoint/base@"):
        run(job_adapter().validate_python(adapter), storage=str(storage))
    taught = {**stage, "task": {"kind": "summarization"}, "model": WRITER, "distillation": {"teacher": "teacher"}}
    with pytest.raises(RequestError, match="for translation"):
        run(job_adapter().validate_python(taught), storage=str(storage))
