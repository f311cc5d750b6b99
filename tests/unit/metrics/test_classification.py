"""Accuracy, micro and macro F1 against scikit-learn, and SemEval-2010 task 8's score by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, multilabel_confusion_matrix, precision_recall_fscore_support

from llmyard.core.errors import DataError
from llmyard.metrics.classification import (
    Scores,
    accuracy,
    accuracy_each,
    macro,
    macro_each,
    macro_f1,
    micro,
    micro_each,
    micro_f1,
    semeval,
    semeval_each,
    semeval_f1,
)

LABELS = ["unknown", "持股", "收购", "owns"]
pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)
RELATIONS = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Entity-Origin(e1,e2)", "Entity-Origin(e2,e1)", "Other"]
related = st.lists(st.tuples(st.sampled_from(RELATIONS), st.sampled_from(RELATIONS)), min_size=1, max_size=40)


def test_counts_by_hand() -> None:
    sums = macro_each(["收购", "持股", "收购", "owns"], ["收购", "收购", "持股", "owns"]).sum(0)
    # Of owns, 持股 and 收购: how often right, guessed, wanted.
    assert sums.reshape(3, 3).tolist() == [[1, 0, 1], [1, 1, 2], [1, 1, 2]]
    assert macro_f1(sums) == (1 + 0 + 1 / 2) / 3


def test_an_excluded_label_costs_recall_only() -> None:
    # Two relations wanted; one found, one taken for unknown. The unknown one is rightly passed over.
    assert micro(["持股", "unknown", "unknown"], ["持股", "收购", "unknown"], ["unknown"]) == Scores(1, 1 / 2, 2 / 3)
    # A relation guessed where there is none is a false alarm.
    assert micro(["持股", "收购"], ["持股", "unknown"], ["unknown"]) == Scores(1 / 2, 1, 2 / 3)


@pytest.mark.filterwarnings("ignore:A single label")
@given(pairs, st.sampled_from([(), ("unknown",), ("unknown", "owns")]))
def test_scikit_learn_agrees(examples: list[tuple[str, str]], excluded: tuple[str, ...]) -> None:
    said, wanted = [one for one, _ in examples], [other for _, other in examples]
    labels = sorted({*said, *wanted} - set(excluded))
    assert accuracy(said, wanted) == pytest.approx(accuracy_score(wanted, said))
    if not labels:
        return
    tables = multilabel_confusion_matrix(wanted, said, labels=labels)  # of each label: truth by guess
    counts = [tables[:, 1, 1], tables[:, :, 1].sum(1), tables[:, 1].sum(1)]  # right, guessed, wanted
    assert macro_each(said, wanted, excluded).sum(0).tolist() == np.concatenate(counts).tolist()
    for figure, average in ((micro, "micro"), (macro, "macro")):
        found = figure(said, wanted, excluded)
        theirs = precision_recall_fscore_support(wanted, said, labels=labels, average=average, zero_division=0)
        assert (found.precision, found.recall, found.f1) == pytest.approx(theirs[:3])


@given(pairs, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_all_right_is_1(examples: list[tuple[str, str]], random) -> None:  # type: ignore[no-untyped-def]
    said, wanted = [one for one, _ in examples], [other for _, other in examples]
    mixed = random.sample(examples, len(examples))
    for figure in (micro, macro):
        here, there = figure(said, wanted), figure([one for one, _ in mixed], [other for _, other in mixed])
        assert (here.precision, here.recall, here.f1) == pytest.approx((there.precision, there.recall, there.f1))
        assert all(0 <= each <= 1 for each in (here.precision, here.recall, here.f1))
        assert figure(wanted, wanted) == Scores(1, 1, 1)
    assert accuracy_each(said, wanted).mean() == accuracy(said, wanted)


def test_semeval_by_hand() -> None:
    wanted = [RELATIONS[0]] * 4 + [RELATIONS[3]] * 2 + ["Other"] * 2
    said = [RELATIONS[0], RELATIONS[0], RELATIONS[1], "Other", RELATIONS[3], RELATIONS[0], RELATIONS[2], "Other"]
    # Cause-Effect: 2 right; guessed 4 times, once in the wrong direction; wanted 4 times.
    # Entity-Origin: 1 right; guessed 2 times, once for Other; wanted 2 times.
    found = semeval(said, wanted)
    assert found.precision == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert found.recall == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert found.f1 == pytest.approx((2 * 2 / (4 + 4) + 2 * 1 / (2 + 2)) / 2)


def test_semeval_differs_from_ignoring_directions_and_from_nineteen_classes() -> None:
    wanted = [RELATIONS[0], RELATIONS[0], RELATIONS[1], RELATIONS[3]]
    said = [RELATIONS[0], RELATIONS[1], RELATIONS[1], RELATIONS[3]]
    assert semeval(said, wanted).f1 == pytest.approx((2 / 3 + 1) / 2)
    assert macro(said, wanted).f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_semeval_takes_what_is_no_relation_for_other() -> None:
    wanted = [RELATIONS[0], RELATIONS[0]]
    assert semeval([RELATIONS[0], "no idea"], wanted) == semeval([RELATIONS[0], "Other"], wanted)
    # Without its direction a relation is guessed, and wrong.
    assert semeval([RELATIONS[0], "Cause-Effect"], wanted).precision == 1 / 2


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
        assert semeval(said, wanted).f1 == pytest.approx(official(said, wanted))


def test_the_figure_of_resampled_rows_is_that_of_the_resampled_examples() -> None:
    draw = np.random.default_rng(1)
    said, wanted = draw.choice(LABELS, 30).tolist(), draw.choice(LABELS, 30).tolist()
    heads = {label: RELATIONS[place] for place, label in enumerate(LABELS)}
    rows = {
        micro_f1: (micro_each(said, wanted, ["unknown"]), lambda a, b: micro(a, b, ["unknown"]).f1),
        macro_f1: (macro_each(said, wanted), lambda a, b: macro(a, b).f1),
        semeval_f1: (
            semeval_each([heads[each] for each in said], [heads[each] for each in wanted]),
            lambda a, b: semeval([heads[each] for each in a], [heads[each] for each in b]).f1,
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
    for figure in (accuracy, micro, macro, semeval):
        with pytest.raises(DataError, match="no hypotheses"):
            figure([], [])
        with pytest.raises(DataError, match="do not pair up"):
            figure(["Other"], ["Other", "Other"])
    for figure in (micro, macro):
        with pytest.raises(DataError, match=r"all labels are excluded \(unknown\)"):
            figure(["unknown"], ["unknown"], ["unknown"])
    with pytest.raises(DataError, match="all labels are excluded"):
        semeval(["Other"], ["Other"])
    with pytest.raises(DataError, match="none of SemEval"):
        semeval(["Other"], ["Cause-Effect"])
