"""What a pretraining begins with: taken in from a folder in the hub's layout, checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import ConfigError, DataError, MissingArtifact, RequestError
from llmyard.core.storage import Storage
from llmyard.models.config import Gpt2, WordVectors
from llmyard.models.families import build, save
from llmyard.stages import finetune, pretrain
from llmyard.stages.bases import adopt, check_hub
from llmyard.stages.beginning import first_model
from llmyard.stages.config import Finetune, Pretrain, job_adapter
from llmyard.stages.replay import joined
from llmyard.stages.run import inputs_of
from llmyard.stages.stage import stage_fingerprint
from llmyard.stages.streams import training_streams, validation_streams
from llmyard.stages.training import TrainJob
from llmyard.tokens import shard_index
from llmyard.tokens.config import BpeTokenizer, ExtendedTokenizer
from llmyard.tokens.extension import extend
from llmyard.tokens.shards import ShardWriter, token_dtype
from llmyard.tokens.tokenizer import FILE, Tokenizer
from llmyard.training.peers import Peers

ENGLISH = [f"The river {number} was deep and the boat was small." for number in range(60)]
CHINESE = [f"第{number}条河很深，船很小，人们坐船过河。" for number in range(60)]
OLD = Tokenizer.train(ENGLISH, BpeTokenizer(vocab_size=330))
NEW = extend(OLD, CHINESE, ExtendedTokenizer(extend="general", new_tokens=40, script="han"))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(str(tmp_path / "store")))


def corpus(
    store: ArtifactStore, name: str, tokenizer: Tokenizer, texts: dict[str, list[str]], extended: Sequence[str] = ()
) -> Artifact:
    """Commits a tokenizer and shards as ``prepare`` does, one shard a source and split."""
    with store.begin("tokenizer", name, f"t-{name}") as draft:
        draft.storage.write(f"{draft.folder}/{FILE}", tokenizer.to_json().encode())
        of = draft.commit(config={}, parents=[], metrics={}, details={"vocab_size": tokenizer.vocab_size})
    with store.begin("shards", name, f"s-{name}") as draft:
        entries, facts = [], []
        for number, (source, lines) in enumerate(texts.items()):
            for split, some in (("train", lines[10:]), ("validation", lines[:10])):
                folder = draft.storage.local(draft.folder)
                writer = ShardWriter(folder, f"{split}-{number}", token_dtype(tokenizer.vocab_size), 64)
                for at, ids in enumerate(tokenizer.encode_batch(some)):
                    writer.add([*ids, tokenizer.end_id], document=str(at), source=source)
                entries += writer.close()
                facts.append(writer.facts)
        entries.append(draft.keep(shard_index.FILE, shard_index.to_parquet(facts)))
        tokens = {
            f"tokens_{split}": float(sum(each.tokens for each in facts if each.split == split))
            for split in ("train", "validation")
        }
        sources = [{"kind": "files", "name": source} for source in texts]
        return draft.commit(
            config={"kind": "prepare", "sources": sources},
            parents=[*extended, of.reference],
            metrics=tokens,
            files=entries,
        )


def folder_of(path: Path, tokenizer: Tokenizer, shape: Any = None, vocab_size: int = 0) -> Path:
    """Saves a model as the hub does."""
    torch.manual_seed(2)
    ids = {"pad_id": tokenizer.pad_id, "end_id": tokenizer.end_id, "max_tokens": 32}
    shape = shape or Gpt2(layers=1, hidden_size=16, heads=2)
    save(build(shape, vocab_size=vocab_size or tokenizer.vocab_size, **ids), path)
    tokenizer.save(path / FILE)
    return path


def job(**fields: Any) -> Pretrain:
    return Pretrain.model_validate(
        {"output": "m", "shards": "domain", "steps": 10, "batch": {"size": 10, "micro_batch": 5}, "sequence_length": 16,
         "resources": {"workers": 1}, **fields}
    )  # fmt: skip


def test_a_folder_is_taken_in_once_and_nothing_of_it_that_runs(store: ArtifactStore, tmp_path: Path) -> None:
    corpus(store, "domain", OLD, {"s": ENGLISH})
    folder = folder_of(tmp_path / "模型", OLD)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_own.py").write_text("raise SystemExit", encoding="utf-8")
    config = job(init=f"hub:{folder}")
    assert inputs_of(config) == [("shards", "domain")]
    with pytest.raises(MissingArtifact, match="`llmyard run` takes it in"):
        pretrain.parents(config, store)
    check_hub(config.init)
    base = adopt(config.init, store)
    assert {entry.path for entry in base.files()} <= {
        "config.json", "generation_config.json", "model.safetensors", FILE
    }  # fmt: skip
    assert adopt(config.init, store).reference == base.reference
    first = stage_fingerprint(config, pretrain, pretrain.parents(config, store))
    assert stage_fingerprint(config, pretrain, pretrain.parents(config, store)) == first
    folder_of(folder, OLD, Gpt2(layers=2, hidden_size=16, heads=2))  # another revision
    with pytest.raises(MissingArtifact):
        pretrain.parents(config, store)
    assert adopt(config.init, store).reference != base.reference
    assert stage_fingerprint(config, pretrain, pretrain.parents(config, store)) != first


def test_a_model_of_the_hub_is_known_by_its_commit(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    folder = folder_of(tmp_path / "snapshot", OLD)
    commit, asked = "c" * 40, []

    def snapshot(model: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append((model, revision))
        assert not any(name.endswith((".bin", ".py", "*")) for name in allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    base = adopt(f"hub:org/model@{commit}", store)
    assert adopt(f"hub:org/model@{commit}", store).reference == base.reference
    assert asked == [("org/model", commit)]
    assert (base.config["model"], base.config["commit"]) == ("org/model", commit)
    assert adopt(f"hub:org/model@{'d' * 40}", store).reference != base.reference


@pytest.mark.parametrize("init", ["hub:model", "hub:a b/c", "hub:"])
def test_what_names_no_model_is_refused_when_the_job_is_read(init: str) -> None:
    with pytest.raises((ConfigError, ValueError), match="neither hub:ORGANISATION/MODEL"):
        job(init=init)


def test_pickles_alone_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", OLD)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"no config.json with .safetensors") as caught:
        check_hub(f"hub:{folder}")
    assert "convert" in caught.value.remedy


def test_a_base_that_does_not_fit_is_refused_with_the_value(store: ArtifactStore, tmp_path: Path) -> None:
    corpus(store, "domain", NEW, {"s": CHINESE})
    base = f"hub:{folder_of(tmp_path / 'm', OLD)}"
    adopt(base, store)
    pretrain.parents(job(init=base, sequence_length=32), store)
    with pytest.raises(RequestError, match="learned 32 positions, sequence_length is 33"):
        pretrain.parents(job(init=base, sequence_length=33), store)
    other = f"hub:{folder_of(tmp_path / 'o', Tokenizer.train(CHINESE, BpeTokenizer(vocab_size=330)))}"
    adopt(other, store)
    with pytest.raises(RequestError, match=r"\d+ of \d+ tokens of checkpoint/hub-o@.* have another id"):
        pretrain.parents(job(init=other), store)
    small = f"hub:{folder_of(tmp_path / 's', OLD, vocab_size=290)}"
    adopt(small, store)
    with pytest.raises(RequestError, match=f"vectors of 290 ids, its tokenizer has {OLD.vocab_size}"):
        pretrain.parents(job(init=small), store)
    bare = folder_of(tmp_path / "b", OLD)
    (bare / FILE).unlink()
    adopt(f"hub:{bare}", store)
    with pytest.raises(RequestError, match=r"has no tokenizer.json"):
        pretrain.parents(job(init=f"hub:{bare}"), store)


def vectors(store: ArtifactStore, name: str, width: int) -> None:
    with store.begin("checkpoint", name, name) as draft:
        folder_of(Path(draft.uri), OLD, WordVectors(hidden_size=width))
        draft.commit(config={}, parents=[store.get("domain", "tokenizer").reference], metrics={})


def test_vectors_of_another_width_or_tokenizer_are_refused(store: ArtifactStore) -> None:
    corpus(store, "domain", OLD, {"s": ENGLISH})
    vectors(store, "wide", 24)
    model = {"family": "gpt2", "hidden_size": 16, "heads": 2}
    with pytest.raises(RequestError, match="have 24 numbers, the model's have 16") as caught:
        pretrain.parents(job(model=model, embedding_init="wide"), store)
    assert "set model.hidden_size to 24" in caught.value.remedy
    vectors(store, "vectors", 16)
    config = job(model=model, embedding_init="vectors")
    assert set(pretrain.parents(config, store)) == {"shards", "tokenizer", "vectors"}
    assert ("checkpoint", "vectors") in inputs_of(config)
    corpus(store, "zh", NEW, {"s": CHINESE})
    with pytest.raises(RequestError, match="was made with another tokenizer"):
        pretrain.parents(job(model=model, embedding_init="vectors", shards="zh"), store)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {"family": "gpt2"}, "replay": {"shards": "g", "share": 0.2}}, "`replay` goes with `init`"),
        ({"init": "b", "replay": {"shards": "g", "share": 0.2}, "objective": {"kind": "recurrent_lm"}}, "no `replay`"),
        ({"init": "b", "replay": {"shards": "g", "share": 1.0}}, "less than 1"),
        ({"init": "b", "embedding_init": "v"}, "`embedding_init` goes with `model`"),
        ({"model": {"family": "word_vectors"}, "objective": {"kind": "skip_gram"}, "z_loss": 0.1}, "of a softmax"),
        ({"model": {"family": "word_vectors"}}, "does not learn by causal_lm, but by skip_gram"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(**fields)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"model": {"family": "gpt2", "hidden_size": 32}, "embedding_init": "first"}, "are 24 wide.* model is 32: set"),
        ({"init": "first", "sequence_length": 17}, "sequence_length 17 .* of 'first', which reads 16"),
    ],
)
def test_stages_of_one_pipeline_are_compared_when_the_job_is_read(second: dict[str, Any], message: str) -> None:
    first = {"kind": "pretrain", "output": "first", "shards": "s", "steps": 1, "sequence_length": 16,
             "model": {"family": "gpt2", "hidden_size": 24}}  # fmt: skip
    pipeline = {"kind": "pipeline", "name": "p", "stages": [first, {**first, "output": "m", "model": None, **second}]}
    with pytest.raises(ValueError, match=message):
        job_adapter().validate_python(pipeline)


def test_replay_reads_the_tokenizer_that_was_extended_but_not_the_extension(
    store: ArtifactStore, tmp_path: Path
) -> None:
    corpus(store, "domain", NEW, {"s": CHINESE})
    corpus(store, "general", OLD, {"s": ENGLISH})
    base = f"hub:{folder_of(tmp_path / 'm', OLD)}"
    adopt(base, store)
    config = job(init=base, replay={"shards": "general", "share": 0.2})
    assert list(pretrain.parents(config, store)) == ["shards", "tokenizer", "base", "replay"]
    assert ("shards", "general") in inputs_of(config)
    turned = job(init=base, shards="general", replay={"shards": "domain", "share": 0.2})
    with pytest.raises(RequestError, match=r"of replay's shards/domain@.* have another id"):
        pretrain.parents(turned, store)
    corpus(store, "empty", OLD, {"s": ENGLISH[:10]})
    with pytest.raises(DataError, match="split 'train' of shards/empty"):
        pretrain.parents(job(init=base, replay={"shards": "empty", "share": 0.2}), store)


def train_job(config: Pretrain, store: ArtifactStore) -> TrainJob:
    found = pretrain.parents(config, store)
    return TrainJob(
        config=config, storage=store.storage, shards=found["shards"], tokenizer=found["tokenizer"],
        base=found.get("base"), labels={}, folder="", fence=0, ticket=None, board=None,
        replay=found.get("replay"), vectors=found.get("vectors"),
    )  # fmt: skip


def test_a_fifth_of_the_samples_is_general_at_any_world_size(store: ArtifactStore, tmp_path: Path) -> None:
    corpus(store, "domain", NEW, {"新闻": CHINESE[:30], "书": CHINESE[30:]})
    corpus(store, "general", OLD, {"s": ENGLISH})
    base = f"hub:{folder_of(tmp_path / 'm', OLD)}"
    adopt(base, store)
    config = job(init=base, replay={"shards": "general", "share": 0.2})
    made = train_job(config, store)
    (stream,) = training_streams(made, NEW).streams
    own = joined(made, "train").own
    assert sum(stream.order[sample].shard >= own for sample in range(5120)) == 1024

    def step(number: int, world: int) -> list[Any]:
        streams = training_streams(made, NEW)
        parts = [streams.micro_batches(2 * number, 2, 5, Peers(rank, world)) for rank in range(world)]
        found = sorted((each for part in parts for each in part), key=lambda each: each.number)
        return [each.batch["ids"].tolist() for each in found]

    assert step(7, 1) == step(7, 2)
    judged = validation_streams(made, NEW)
    assert list(judged) == ["", "domain", "domain/书", "domain/新闻", "general"]
    english = judged["general"].batch([judged["general"].order[0]])["ids"]
    assert int(english.max()) < OLD.vocab_size


def test_the_model_of_a_run_has_the_new_tokens_and_the_ids_behind(store: ArtifactStore, tmp_path: Path) -> None:
    base = f"hub:{folder_of(tmp_path / 'm', OLD)}"
    corpus(store, "domain", NEW, {"s": CHINESE}, extended=adopt(base, store).parents)
    model = first_model(train_job(job(init=base), store), NEW)
    assert len(model.get_input_embeddings().weight) == model.config.vocab_size == NEW.vocab_size


def test_a_new_model_begins_with_word_vectors(store: ArtifactStore) -> None:
    corpus(store, "domain", OLD, {"s": ENGLISH})
    vectors(store, "vectors", 16)
    made = job(model={"family": "gpt2", "hidden_size": 16, "heads": 2, "layers": 1}, embedding_init="vectors")
    model = first_model(train_job(made, store), OLD)
    own, learned = (
        each.get_input_embeddings().weight.detach()
        for each in (model, first_model_of(store.get("vectors", "checkpoint")))
    )
    cosine = torch.nn.functional.cosine_similarity(own, learned - learned.mean(0))
    assert float(cosine.min()) > 0.999


def first_model_of(checkpoint: Artifact) -> Any:
    from llmyard.models.families import load

    return load(checkpoint.local())


def test_a_hub_model_with_its_own_tokenizer_is_trained_on_text_prepared_with_it(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """Another maker's tokenizer lacks control tokens: they come behind, as new tokens."""
    from tokenizers import Tokenizer as Backend

    folder = folder_of(tmp_path / "gpt2", OLD)
    parts = json.loads(OLD.to_json())
    vocabulary = sorted(parts["model"]["vocab"], key=parts["model"]["vocab"].__getitem__)[8:]
    parts["model"]["vocab"] = {name: number for number, name in enumerate(vocabulary)}
    parts["added_tokens"] = []
    Backend.from_str(json.dumps(parts)).save(str(folder / FILE))
    base = adopt(f"hub:{folder}", store)
    assert base.details["can"] == ["init"]
    of = store.get(base.parents[0])
    usable = Tokenizer.load(of.local(FILE))
    assert usable.decode(usable.encode("The boat was small.")) == "The boat was small."
    corpus(store, "domain", usable, {"s": [*ENGLISH, *CHINESE]})
    model = first_model(train_job(job(init=f"hub:{folder}"), store), usable)
    assert usable.vocab_size == OLD.vocab_size
    assert len(model.get_input_embeddings().weight) == usable.vocab_size + 8  # 8 rows stood behind its tokenizer


@pytest.mark.parametrize(
    ("family", "field"), [("bert", "max_answer_tokens"), ("gpt2", "hops"), ("t5", "always_answers")]
)
def test_a_field_that_the_model_never_reads_is_refused_in_a_job_and_read_in_a_checkpoint(
    family: str, field: str, tmp_path: Path
) -> None:
    job = {
        "output": "reader", "tokenizer": "t", "steps": 1, "model": {"family": family},
        "task": {"kind": "question_answering", field: 2 if field != "always_answers" else True},
    }  # fmt: skip
    config = Finetune.model_validate(job)
    with pytest.raises(RequestError, match=rf"task\.{field} has no effect on a model that"):
        finetune.parents(config, ArtifactStore(Storage(str(tmp_path))))
    assert Finetune.model_validate(config.model_dump(mode="json")) == config
    plain = Finetune.model_validate({**job, "task": {"kind": "question_answering"}})
    finetune._refuse_without_effect(plain)
