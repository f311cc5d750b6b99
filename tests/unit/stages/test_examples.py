"""Examples made by a translator: what it cannot read whole is not translated, nothing held out comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmyard.core.storage import Storage
from llmyard.sources.leaks import input_key
from llmyard.stages.config import Finetune
from llmyard.stages.examples import Encode, _translating
from llmyard.tokens.tokenizer import FILE

ENGLISH, CHINESE = "Malo found a green lamp.", "马洛找到了一盏绿色的灯。"


def test_texts_are_translated_whole_or_not_at_all(tiny: Any) -> None:
    with _translating(tiny.store.get("translator", "checkpoint")) as translate:
        assert translate([ENGLISH, f"{ENGLISH} " * 20], "zh") == [CHINESE, ""]
        assert translate([CHINESE], "en") == [ENGLISH]


def test_a_copy_that_asks_what_a_held_out_example_asks_is_left_out(tiny: Any, tmp_path: Path, monkeypatch: Any) -> None:
    store = tiny.store
    with store.begin("tokenizer", "tiny", "tiny") as draft:
        tiny.tokenizer.save(Path(draft.uri, FILE))
        tokenizer = draft.commit(config={}, parents=(), metrics={})
    languages = {"source_language": "en", "target_language": "zh"}
    record = {"id": "t", "source": "You there, my friend?", "target": CHINESE, **languages}
    held_out = input_key({**record, "source": ENGLISH})
    model = {"family": "transformer", "encoder_layers": 1, "decoder_layers": 1, "hidden_size": 16, "heads": 2,
             "feed_forward_size": 16}  # fmt: skip
    config = Finetune.model_validate(
        {
            "output": "m", "task": {"kind": "translation"}, "tokenizer": "tiny", "model": model, "steps": 1,
            "data": {"kind": "smallworld"}, "augment": {"back_translate": "translator"},
        }
    )  # fmt: skip
    monkeypatch.setattr("llmyard.stages.examples.checked", lambda *_: ([record], []))
    row = {"index": 0, "split": "train", "path": "", "start": 0, "stop": 1}
    for number in (0, 1):
        (tmp_path / f"made-{number}").mkdir()
    for known, copies in ((frozenset[str](), 1), (frozenset([held_out.hex()]), 0)):
        encode = Encode(
            config, "transformer", tokenizer, store.get("translator", "checkpoint"), {}, known,
            Storage(str(tmp_path)), f"made-{copies}", 1,
        )  # fmt: skip
        counts = encode(row)["counts"]
        assert counts["train"] == 1 + copies
        assert counts["leaked_copies"] == 1 - copies
