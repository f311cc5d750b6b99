"""Accuracy, micro and macro F1 against scikit-learn, and SemEval-2010 task 8's score by hand."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, multilabel_confusion_matrix, precision_recall_fscore_support

from llmyard.core.errors import DataError
from llmyard.metrics.classification import (
    accuracy_each,
    macro_each,
    macro_f1,
    micro_each,
    micro_f1,
    semeval_each,
    semeval_f1,
)

LABELS = ["unknown", "持股", "收购", "owns"]
pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)
RELATIONS = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Entity-Origin(e1,e2)", "Entity-Origin(e2,e1)", "Other"]
related = st.lists(st.tuples(st.sampled_from(RELATIONS), st.sampled_from(RELATIONS)), min_size=1, max_size=40)


def micro(said: list[str], wanted: list[str], excluded: Collection[str] = ()) -> float:
    return float(micro_f1(micro_each(said, wanted, excluded).sum(0)))


def macro(said: list[str], wanted: list[str], excluded: Collection[str] = ()) -> float:
    return float(macro_f1(macro_each(said, wanted, excluded).sum(0)))


def semeval(said: list[str], wanted: list[str]) -> float:
    return float(semeval_f1(semeval_each(said, wanted).sum(0)))


def test_counts_by_hand() -> None:
    sums = macro_each(["收购", "持股", "收购", "owns"], ["收购", "收购", "持股", "owns"]).sum(0)
    # Of owns, 持股 and 收购: how often right, guessed, wanted.
    assert sums.reshape(3, 3).tolist() == [[1, 0, 1], [1, 1, 2], [1, 1, 2]]
    assert macro_f1(sums) == (1 + 0 + 1 / 2) / 3


def test_an_excluded_label_costs_recall_only() -> None:
    # Two relations wanted; one found, one taken for unknown. The unknown one is rightly passed over.
    rows = micro_each(["持股", "unknown", "unknown"], ["持股", "收购", "unknown"], ["unknown"])
    assert rows.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]  # right, guessed, wanted
    assert micro_f1(rows.sum(0)) == 2 / 3
    # A relation guessed where there is none is a false alarm.
    assert micro_each(["持股", "收购"], ["持股", "unknown"], ["unknown"]).tolist() == [[1, 1, 1], [0, 1, 0]]
    assert micro(["持股", "收购"], ["持股", "unknown"], ["unknown"]) == 2 / 3


@pytest.mark.filterwarnings("ignore:A single label")
@settings(deadline=None)
@given(pairs, st.sampled_from([(), ("unknown",), ("unknown", "owns")]))
def test_scikit_learn_agrees(examples: list[tuple[str, str]], excluded: tuple[str, ...]) -> None:
    said, wanted = [one for one, _ in examples], [other for _, other in examples]
    labels = sorted({*said, *wanted} - set(excluded))
    assert accuracy_each(said, wanted).mean() == pytest.approx(accuracy_score(wanted, said))
    if not labels:
        return
    tables = multilabel_confusion_matrix(wanted, said, labels=labels)  # of each label: truth by guess
    counts = [tables[:, 1, 1], tables[:, :, 1].sum(1), tables[:, 1].sum(1)]  # right, guessed, wanted
    assert macro_each(said, wanted, excluded).sum(0).tolist() == np.concatenate(counts).tolist()
    for figure, average in ((micro, "micro"), (macro, "macro")):
        theirs = precision_recall_fscore_support(wanted, said, labels=labels, average=average, zero_division=0)
        assert figure(said, wanted, excluded) == pytest.approx(theirs[2])


@given(pairs, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_all_right_is_1(examples: list[tuple[str, str]], random) -> None:  # type: ignore[no-untyped-def]
    said, wanted = [one for one, _ in examples], [other for _, other in examples]
    mixed = random.sample(examples, len(examples))
    for figure in (micro, macro):
        here, there = figure(said, wanted), figure([one for one, _ in mixed], [other for _, other in mixed])
        assert here == pytest.approx(there)
        assert 0 <= here <= 1
        assert figure(wanted, wanted) == 1


def test_semeval_by_hand() -> None:
    wanted = [RELATIONS[0]] * 4 + [RELATIONS[3]] * 2 + ["Other"] * 2
    said = [RELATIONS[0], RELATIONS[0], RELATIONS[1], "Other", RELATIONS[3], RELATIONS[0], RELATIONS[2], "Other"]
    # Cause-Effect: 2 right; guessed 4 times, once in the wrong direction; wanted 4 times.
    # Entity-Origin: 1 right; guessed 2 times, once for Other; wanted 2 times.
    assert semeval_each(said, wanted).sum(0).tolist() == [2, 1, 4, 2, 4, 2]  # right, guessed, wanted
    assert semeval(said, wanted) == pytest.approx((2 * 2 / (4 + 4) + 2 * 1 / (2 + 2)) / 2)


def test_semeval_differs_from_ignoring_directions_and_from_nineteen_classes() -> None:
    wanted = [RELATIONS[0], RELATIONS[0], RELATIONS[1], RELATIONS[3]]
    said = [RELATIONS[0], RELATIONS[1], RELATIONS[1], RELATIONS[3]]
    assert semeval(said, wanted) == pytest.approx((2 / 3 + 1) / 2)
    assert macro(said, wanted) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_semeval_takes_what_is_no_relation_for_other() -> None:
    wanted = [RELATIONS[0], RELATIONS[0]]
    assert semeval([RELATIONS[0], "no idea"], wanted) == semeval([RELATIONS[0], "Other"], wanted)
    # Without its direction a relation is guessed, and wrong.
    assert semeval_each([RELATIONS[0], "Cause-Effect"], wanted).sum(0).tolist() == [1, 2, 2]


def official(said: list[str], wanted: list[str]) -> float:
    """The official scorer's steps: a matrix without directions, wrong ones counted aside and added to the guesses."""
    bare = [label.partition("(")[0] for label in said], [label.partition("(")[0] for label in wanted]
    total = []
    for relation in {each for each in bare[1] if each != "Other"}:
        right = aside = guessed = count = 0
        for one, other, a, b in zip(said, wanted, *bare, strict=True):
            right += b == relation and one == other
            aside += b == relation and a == b and one != other
            guessed += a == relation and not (a == b and one != other)
            count += b == relation
        precision, recall = right / (guessed + aside) if guessed else 0, right / count
        total.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    return sum(total) / len(total)


@given(related)
def test_semeval_agrees_with_the_official_steps(examples: list[tuple[str, str]]) -> None:
    said, wanted = [one for one, _ in examples], [other for _, other in examples]
    if set(wanted) != {"Other"}:
        assert semeval(said, wanted) == pytest.approx(official(said, wanted))


def test_the_figure_of_resampled_rows_is_that_of_the_resampled_examples() -> None:
    draw = np.random.default_rng(1)
    said, wanted = draw.choice(LABELS, 30).tolist(), draw.choice(LABELS, 30).tolist()
    heads = {label: RELATIONS[place] for place, label in enumerate(LABELS)}
    rows = {
        micro_f1: (micro_each(said, wanted, ["unknown"]), lambda a, b: micro(a, b, ["unknown"])),
        macro_f1: (macro_each(said, wanted), macro),
        semeval_f1: (
            semeval_each([heads[each] for each in said], [heads[each] for each in wanted]),
            lambda a, b: semeval([heads[each] for each in a], [heads[each] for each in b]),
        ),
    }
    for figure, (each, whole) in rows.items():
        sums, expected = [], []
        for _ in range(20):
            places = draw.integers(0, 30, 12)
            sums.append(each[places].sum(0))
            expected.append(whole([said[place] for place in places], [wanted[place] for place in places]))
        assert figure(np.stack(sums)) == pytest.approx(expected)


def test_refusals() -> None:
    for figure in (accuracy_each, micro_each, macro_each, semeval_each):
        with pytest.raises(DataError, match="no hypotheses"):
            figure([], [])
        with pytest.raises(DataError, match="do not pair up"):
            figure(["Other"], ["Other", "Other"])
    for figure in (micro_each, macro_each):
        with pytest.raises(DataError, match=r"all labels are excluded \(unknown\)"):
            figure(["unknown"], ["unknown"], ["unknown"])
    with pytest.raises(DataError, match="all labels are excluded"):
        semeval_each(["Other"], ["Other"])
    with pytest.raises(DataError, match="none of SemEval"):
        semeval_each(["Other"], ["Cause-Effect"])
