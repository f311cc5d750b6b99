"""The learned classifier: clean documents against damaged ones, held out, in both languages."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmyard.core.errors import DataError, RequestError
from llmyard.sources.smallworld import Document, SmallWorld
from llmyard.text.classifier import Model, judge_classifier, model_of, score, train
from llmyard.text.config import Classifier, Html
from llmyard.text.html import extract
from llmyard.text.units import Units, units_of

CONFIG = Classifier(positive=("unused",), negative=("unused",))


@cache
def sides() -> tuple[list[Document], list[Document]]:
    """Clean documents, and those that words betray."""
    world = SmallWorld("dev", seed=7, documents=16_000)
    documents = [world.document(index) for index in range(16_000)]
    bad = [each for each in documents if each.damage in ("word_salad", "mojibake", "boilerplate")]
    return [each for each in documents if not each.damage], bad


def units(documents: list[Document]) -> Units:
    return units_of(extract(pa.array([each.text for each in documents], pa.string()), Html()).texts)


@cache
def trained() -> Model:
    good, bad = sides()
    return train(units(good[::2]), units(bad[::2]), CONFIG)


@pytest.mark.parametrize(("language", "wanted"), [("zh", 0.98), ("en", 0.95)])
def test_clean_and_damaged_documents_are_told_apart(language: str, wanted: float) -> None:
    good, bad = ([each for each in side[1::2] if each.language == language] for side in sides())
    right = [(score(units(good), trained()) >= 0.5).mean(), (score(units(bad), trained()) < 0.5).mean()]
    assert len(bad) > 100
    assert np.mean(right) > wanted, right
    reasons = judge_classifier(units(bad), trained(), CONFIG).to_pylist()
    assert reasons.count("low_quality") == round(right[1] * len(bad))
    assert set(reasons) <= {"low_quality", None}


def test_equal_seeds_give_equal_models_and_others_do_not() -> None:
    good, bad = (units(side[:200]) for side in sides())
    models = [train(good, bad, CONFIG.model_copy(update={"seed": seed})) for seed in (1, 1, 2)]
    assert np.array_equal(models[0].weights, models[1].weights)
    assert not np.array_equal(models[0].weights, models[2].weights)


def test_few_bad_examples_weigh_as_much_as_many_good_ones() -> None:
    good = units_of(pa.array(["good words here"] * 500))
    bad = units_of(pa.array(["bad words here"] * 3))
    model = train(good, bad, CONFIG)
    assert score(units_of(pa.array(["good words here"])), model)[0] > 0.9
    assert score(units_of(pa.array(["bad words here"])), model)[0] < 0.1


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    trained().save(tmp_path / "model.npz")
    again = Model.load(tmp_path / "model.npz")
    some = units(sides()[1][:50])
    assert np.array_equal(score(some, again), score(some, trained()))
    np.savez(tmp_path / "old.npz", format_version=99)
    with pytest.raises(DataError, match="format 99"):
        Model.load(tmp_path / "old.npz")


def test_a_model_of_example_files(tmp_path: Path) -> None:
    def written(name: str, texts: list[str]) -> Any:
        path = tmp_path / name
        jsonl = name.endswith(".jsonl")
        path.write_text("".join((json.dumps({"text": text}) if jsonl else text) + "\n" for text in texts))
        return path

    good = written("good.jsonl", ["An honest text about the town.", "一篇关于城市的文章。"] * 20)
    bad = written("bad.txt", ["Buy now click here", "点击购买 点击购买"] * 20)
    model = model_of(Classifier(positive=(str(good),), negative=(str(bad),)))
    chances = score(units_of(pa.array(["click here now", "关于城市的", ""])), model)
    assert chances[0] < 0.5 < chances[1]
    with pytest.raises(RequestError, match="cannot read"):
        model_of(Classifier(positive=(str(tmp_path / "none"),), negative=(str(bad),)))
    with pytest.raises(DataError, match="positive examples hold no words"):
        train(units_of(pa.array(["!!"])), units_of(pa.array(["bad"])), CONFIG)
