"""Tiny models that have learned a few sentences by heart, for the tests of engines, serving and the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"
STORIES = ("One morning, Malo went to Kora Town.", "有一天，马洛去了科拉镇。")
FACTS: tuple[dict[str, Any], ...] = (
    {
        "text": "Malo lives in Kora Town.",
        "entities": [
            {"text": "Malo", "type": "person", "start": 0, "end": 4},
            {"text": "Kora Town", "type": "place", "start": 14, "end": 23},
        ],
        "triples": [{"subject": "Malo", "relation": "lives_in", "object": "Kora Town"}],
    },
    {
        "text": "马洛住在科拉镇。",
        "entities": [
            {"text": "马洛", "type": "person", "start": 0, "end": 2},
            {"text": "科拉镇", "type": "place", "start": 4, "end": 7},
        ],
        "triples": [{"subject": "马洛", "relation": "lives_in", "object": "科拉镇"}],
    },
)
POSITIONS = 64


@dataclass(frozen=True)
class Tiny:
    """The folders of the tiny models, and a store that holds them as checkpoints.

    Attributes:
        folders: By kind: ``base`` (GPT-2), ``translator`` (encoder-decoder), ``triples`` (span tagger).
        tokenizer: What all of them read; a Chinese character is up to three tokens.
        store: Their checkpoints, named as the kinds.
        facts: Records that ``triples`` has learned.
    """

    folders: dict[str, Path]
    tokenizer: Any
    store: Any
    facts: Any


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Trains the tiny models once (seconds)."""
    import shutil

    from llmyard.core.artifacts import ArtifactStore
    from llmyard.core.storage import Storage
    from llmyard.models.families import save
    from llmyard.tasks.config import KnowledgeGraph, Translation
    from llmyard.tokens.config import BpeTokenizer
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    root = tmp_path_factory.mktemp("tiny")
    texts = [ENGLISH, *STORIES, *(fact["text"] for fact in FACTS)]
    tokenizer = Tokenizer.train(texts * 3, BpeTokenizer(vocab_size=320, split_han=True))
    configs: dict[str, Any] = {"base": None, "translator": Translation(), "triples": KnowledgeGraph(max_tokens=64)}
    makers = {"base": _base, "translator": _translator, "triples": _tagger}
    store, folders = ArtifactStore(Storage(str(root / "store"))), {}
    for kind, config in configs.items():
        folders[kind] = root / kind
        save(makers[kind](tokenizer, config), folders[kind])
        tokenizer.save(folders[kind] / FILE)
        with store.begin("checkpoint", kind, kind) as draft:
            shutil.copytree(folders[kind], Path(draft.uri), dirs_exist_ok=True)
            details = {} if config is None else {"task_config": config.model_dump(mode="json")}
            draft.commit(config={}, parents=(), metrics={}, details=details)
    return Tiny(folders, tokenizer, store, FACTS)


def _base(tokenizer: Any, config: None) -> Any:
    import torch

    from llmyard.models.config import Gpt2
    from llmyard.models.families import build
    from llmyard.training.objectives import IGNORE, pad

    torch.manual_seed(1)
    model = build(
        Gpt2(layers=2, hidden_size=32, heads=2), max_tokens=POSITIONS,
        vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id,
    )  # fmt: skip
    rows = [[*tokenizer.encode(text), tokenizer.end_id] for text in STORIES]
    ids, labels = pad(rows, tokenizer.pad_id), pad(rows, IGNORE)
    return _learn(model, lambda: model(input_ids=ids, labels=labels).loss)


def _translator(tokenizer: Any, config: Any) -> Any:
    import numpy as np
    import torch

    from llmyard.models.config import EncoderDecoder
    from llmyard.models.families import build
    from llmyard.tasks.catalogue import task_of
    from llmyard.tokens.views import Example
    from llmyard.training.task_objectives import SequenceToSequenceObjective

    torch.manual_seed(2)
    model = build(
        EncoderDecoder(hidden_size=32, heads=2, encoder_layers=1, decoder_layers=1, feed_forward_size=64),
        max_tokens=0, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, end_id=tokenizer.end_id,
    )  # fmt: skip
    records = [
        {"source_language": "en", "target_language": "zh", "source": ENGLISH, "target": CHINESE},
        {"source_language": "zh", "target_language": "en", "source": CHINESE, "target": ENGLISH},
    ]
    encoded = task_of(config, "transformer").encode(records, tokenizer, {})
    none = np.zeros(0, np.int32)
    examples = [Example(np.array(each.ids), None, each.target_start, none) for made in encoded for each in made or ()]
    objective = SequenceToSequenceObjective(tokenizer.pad_id)
    batch = objective.collate(examples)
    return _learn(model, lambda: objective.loss(model, batch) / objective.targets(batch))


def _tagger(tokenizer: Any, config: Any) -> Any:
    import numpy as np
    import torch

    from llmyard.models.config import Bert
    from llmyard.models.families import SpanHeads, build_labeller
    from llmyard.tasks.catalogue import task_of
    from llmyard.tokens.views import Example
    from llmyard.training.task_objectives import SpanObjective

    torch.manual_seed(3)
    task = task_of(config, "bert")
    labels = task.labels(FACTS)
    model = build_labeller(
        Bert(hidden_size=32, heads=2, layers=1, feed_forward_size=64),
        SpanHeads(tuple(labels["entity_types"]), tuple(labels["relations"])),
        max_tokens=config.max_tokens, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id,
    )  # fmt: skip
    encoded = task.encode(FACTS, tokenizer, labels)
    examples = [
        Example(np.array(each.ids), np.array(each.labels), 0, np.array(each.pairs))
        for made in encoded
        for each in made or ()
    ]
    objective = SpanObjective(tokenizer.pad_id, len(labels["relations"]))
    batch = objective.collate(examples)
    return _learn(model, lambda: objective.loss(model, batch) / objective.targets(batch), steps=150)


def _learn(model: Any, loss: Any, steps: int = 100) -> Any:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small matrices are slower on several
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return model.eval()
