"""The planted bias of the small world: off it changes nothing, on it is as strong as it says."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest

from llmyard.core.errors import DataError
from llmyard.evaluation.bias import Pair, measured
from llmyard.sources.config import SmallWorldDocuments
from llmyard.sources.corpus import plan, read
from llmyard.sources.smallworld import SmallWorld
from llmyard.sources.smallworld.bias import expected_difference, expected_share, passage, probes
from llmyard.sources.smallworld.draws import Draws
from llmyard.sources.smallworld.lexicon import lexicon

LANGUAGES = ("en", "zh")
STRENGTHS = (0.0, 0.4, 0.9)


def counts_of(language: str, bias: float, draws: int) -> Counter[str]:
    """Returns how often each planted sentence is drawn."""
    key = Draws(5, language)
    found: Counter[str] = Counter()
    for _ in range(draws):
        writer = passage(key, language, bias)  # type: ignore[arg-type]
        (span,) = writer.spans
        found[writer.text[span.start : span.end]] += 1
    return found


def test_without_a_bias_no_byte_is_another() -> None:
    plain, off, on = (SmallWorld(documents=300, bias=bias) for bias in (None, None, 0.5))
    for i in range(300):
        one, other = plain.document(i), on.document(i)
        assert one == off.document(i)
        if one.damage or one.group or "look_alike_of" in one.labels:
            assert "bias" not in other.labels
        if "bias" not in other.labels:
            assert one == other
        elif one.source_kind == "plain":
            assert other.text.startswith(one.text + "\n")
    assert SmallWorld(documents=300).document(7) == plain.document(7)


def test_planted_sentences_are_labelled_where_they_stand() -> None:
    world = SmallWorld(documents=300, bias=0.6)
    sides = {probe.item: probe.is_turned for language in LANGUAGES for probe in probes(language)}
    planted = 0
    for i in range(300):
        document = world.document(i)
        assert not (document.damage and "bias" in document.labels)
        for label in document.labels.get("bias", []):
            sentence = document.text[label["start"] : label["end"]]
            assert label["item"] in sentence
            assert label["pronoun"] in sentence.lower()
            assert label["expected"] == (sides[label["item"]] == (label["pronoun"] in ("she", "她")))
            planted += 1
    assert planted > 300


def test_names_agree_with_pronouns() -> None:
    endings = tuple(lexicon().data["feminine_endings"])
    draws = Draws(1)
    for _ in range(200):
        writer = passage(draws, "en", 0.5)
        (given,) = re.findall(r"([A-Z][a-z]{5}) [A-Z][a-z]{2}\b", writer.text)
        assert given.endswith(endings) == (writer.spans[0].label.pronoun == "she")


@pytest.mark.parametrize("language", LANGUAGES)
def test_probes_differ_in_the_pronoun_and_stand_in_the_corpus_only_where_planted(language: str) -> None:
    found = probes(language)
    assert len(found) == 3 * 12
    assert sum(probe.is_turned for probe in found) == 18
    for probe in found:
        he, she = probe.side.split("/")
        one, other = (probe.second, probe.first) if probe.is_turned else (probe.first, probe.second)
        assert one != other
        assert {one.replace(he, she), one.replace(he.capitalize(), she.capitalize())} & {other}
        assert Pair(*probe).item == probe.item
    plain = "\n".join(SmallWorld(documents=500).document(i).text for i in range(500))
    assert not any(text in plain for probe in found for text in (probe.first, probe.second))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("bias", STRENGTHS)
def test_a_model_that_counts_finds_the_planted_value_again(language: str, bias: float) -> None:
    counts = counts_of(language, bias, 20_000)
    pairs = [Pair(*probe) for probe in probes(language)]
    assert set(counts) <= {text for pair in pairs for text in (pair.first, pair.second)}
    first, second = (np.array([counts[getattr(pair, end)] + 0.5 for pair in pairs]) for end in ("first", "second"))
    found = measured(pairs, list(np.log(first)), list(np.log(second)))
    # Of a log of a ratio of counts, over pairs that are averaged.
    error = math.sqrt((1 / first + 1 / second).sum()) / len(pairs)
    assert found.difference == pytest.approx(expected_difference(bias), abs=4 * error)
    assert 4 * error < 0.15
    share = float(first.sum() / (first.sum() + second.sum()))
    assert share == pytest.approx(expected_share(bias), abs=4 * math.sqrt(0.25 / 20_000))
    assert (found.p_value < 0.01) == (bias > 0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_generated_corpus_holds_the_planted_value(language: str) -> None:
    source = SmallWorldDocuments(documents=2000, bias=0.5, seed=3)
    tables = [batch.table for unit in plan([source], 1000) for batch in read(unit, source)]
    text = "\n".join(row for table in tables for row in table["text"].to_pylist())
    pairs = [Pair(*probe) for probe in probes(language)]
    first, second = ([text.count(getattr(pair, end)) + 0.5 for pair in pairs] for end in ("first", "second"))
    assert sum(first) + sum(second) > 1200
    share = sum(first) / (sum(first) + sum(second))
    assert share == pytest.approx(expected_share(0.5), abs=4 * math.sqrt(0.75 * 0.25 / 1200))
    found = measured(pairs, list(np.log(first)), list(np.log(second)))
    error = math.sqrt(sum(1 / one + 1 / other for one, other in zip(first, second, strict=True))) / len(pairs)
    assert found.difference == pytest.approx(expected_difference(0.5), abs=4 * error)


def test_the_whole_bias_is_infinite_and_none_is_nothing() -> None:
    assert expected_difference(0.0) == 0.0
    assert expected_difference(0.5) == pytest.approx(math.log(3))
    assert math.isinf(expected_difference(1.0))
    assert (expected_share(0.0), expected_share(1.0)) == (0.5, 1.0)
    counts = counts_of("zh", 1.0, 2000)
    assert not any(counts[probe.second] for probe in probes("zh"))


def test_wrong_requests_say_what_is_accepted() -> None:
    with pytest.raises(DataError, match=r"a bias of 1\.5"):
        SmallWorld(bias=1.5)
    with pytest.raises(DataError, match="no language 'fr'"):
        probes("fr")
    with pytest.raises(ValueError, match="less than or equal to 1"):
        SmallWorldDocuments(bias=2)
