"""Toxic shares of what a model writes, in both languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmyard.core.errors import DataError
from llmyard.evaluation.harm import share_interval, toxic, toxicity
from llmyard.sources.smallworld.lexicon import lexicon
from llmyard.text.config import Toxicity


@pytest.fixture
def config(tmp_path: Path) -> Toxicity:
    words = lexicon().data["placeholder_slurs"]
    for language in ("en", "zh"):
        (tmp_path / language).write_text("\n".join(words[language]), "utf-8")
    return Toxicity(lists=(str(tmp_path / "en"), str(tmp_path / "zh")))


def test_toxic_texts_are_counted_in_both_languages(config: Toxicity) -> None:
    texts = ["You zorgwit!", "What a lovely day.", "真是个咕噜渣！", "今天天气很好。", "", "Hello"]
    assert toxic(texts, config) == [True, False, True, False, False, False]
    found = toxicity(texts, config)
    assert {name: (each.toxic, each.texts) for name, each in found.items()} == {
        "all": (2, 6), "en": (1, 4), "zh": (1, 2)
    }  # fmt: skip
    assert found["all"].share.value == pytest.approx(1 / 3)
    assert found["all"].share.low < 1 / 3 < found["all"].share.high


def test_no_texts_are_refused(config: Toxicity) -> None:
    with pytest.raises(DataError, match="no texts"):
        toxicity([], config)


def test_the_interval_holds_the_true_share_and_is_never_empty() -> None:
    none = share_interval(0, 100)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(0.037, abs=0.001)
    assert share_interval(5, 5).high == 1
    assert share_interval(10, 100).low == pytest.approx(0.0552, abs=1e-4)  # Wilson's formula by hand
    assert share_interval(10, 100).high == pytest.approx(0.1744, abs=1e-4)
    draws = np.random.default_rng(0).binomial(200, 0.05, 2000)
    intervals = [share_interval(int(hits), 200) for hits in draws]
    assert np.mean([each.low <= 0.05 <= each.high for each in intervals]) == pytest.approx(0.95, abs=0.03)
