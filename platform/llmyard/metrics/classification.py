"""How well labels are guessed: accuracy, and precision, recall and F1 over all examples (micro) or over labels (macro).

``..._each`` tells what each example adds, as a row of numbers; a figure of the summed rows is that of the examples, so
intervals and comparisons (:mod:`llmyard.metrics.significance`) can be had for every one of them. Where a denominator
is 0, so is the ratio.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from llmyard.core.errors import DataError
from llmyard.metrics.measure import refuse_unequal

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SEMEVAL_OTHER = "Other"
_DIRECTED = re.compile(r"(.+)\((?:e1,e2|e2,e1)\)")


def accuracy_each(predicted: Sequence[str], expected: Sequence[str]) -> F64:
    """Returns 1 for each example that is right, else 0; (examples,).

    Raises:
        DataError: No labels, or unequal numbers of them.
    """
    refuse_unequal(predicted, expected)
    return np.array([said == wanted for said, wanted in zip(predicted, expected, strict=True)], np.float64)


def micro_each(predicted: Sequence[str], expected: Sequence[str], excluded: Collection[str] = ()) -> F64:
    """Returns for each example whether it is right, guessed, wanted; (examples, 3).

    An excluded label (``unknown`` of FinRE, ``no_relation`` of TACRED) is neither guessed nor wanted: guessing it where
    another is wanted costs recall only, and finding it earns nothing.

    Raises:
        DataError: No labels, unequal numbers of them, or none that is not excluded.
    """
    refuse_unequal(predicted, expected)
    guessed = np.array([label not in excluded for label in predicted])
    wanted = np.array([label not in excluded for label in expected])
    _refuse_only_excluded(bool(guessed.any() or wanted.any()), excluded)
    right = np.array([one == other for one, other in zip(predicted, expected, strict=True)]) & wanted
    return np.stack([right, guessed, wanted], 1).astype(np.float64)


def micro_f1(sums: F64) -> F64:
    """Returns micro-F1, 0 to 1, of summed rows of :func:`micro_each`; (..., 3) to (...)."""
    return _over(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def macro_each(predicted: Sequence[str], expected: Sequence[str], excluded: Collection[str] = ()) -> F64:
    """Returns for each example which label is right, guessed, wanted; (examples, 3 x labels), in three blocks.

    The labels are all of either side that are not excluded, sorted.

    Raises:
        DataError: No labels, unequal numbers of them, or none that is not excluded.
    """
    refuse_unequal(predicted, expected)
    labels = sorted({*predicted, *expected} - set(excluded))
    _refuse_only_excluded(bool(labels), excluded)
    return _blocks(_places(predicted, labels), _places(expected, labels), None, len(labels))


def macro_f1(sums: F64) -> F64:
    """Returns macro-F1, 0 to 1, of summed rows of :func:`macro_each`; (..., 3 x labels) to (...).

    The mean is over the labels that occur on either side of what was summed.
    """
    right, guessed, wanted = np.split(sums, 3, axis=-1)
    return _mean_where(_over(2 * right, guessed + wanted), guessed + wanted > 0)


def semeval_each(predicted: Sequence[str], expected: Sequence[str]) -> F64:
    """Returns for each example which relation is right, guessed, wanted; (examples, 3 x relations), in three blocks.

    Labels are those of SemEval-2010 task 8 (Hendrickx et al. 2010): ``Cause-Effect(e1,e2)``, or ``Other``. The
    relations are those of the expected labels without their directions, sorted: nine in the whole test set. As in the
    official scorer, a guess that is no relation of the expected labels counts as ``Other``.

    Raises:
        DataError: No labels, unequal numbers of them, an expected one that is no label of the task, or none but
            ``Other``.
    """
    refuse_unequal(predicted, expected)
    for label in expected:
        if label != SEMEVAL_OTHER and not _DIRECTED.fullmatch(label):
            raise DataError(
                f"the expected label {label!r} is none of SemEval-2010 task 8",
                "labels look like `Cause-Effect(e1,e2)` or `Other`",
            )
    guesses, truths = [_undirected(label) for label in predicted], [_undirected(label) for label in expected]
    relations = sorted(set(truths) - {SEMEVAL_OTHER})
    _refuse_only_excluded(bool(relations), [SEMEVAL_OTHER])
    same = np.array([said == wanted for said, wanted in zip(predicted, expected, strict=True)])
    return _blocks(_places(guesses, relations), _places(truths, relations), same, len(relations))


def semeval_f1(sums: F64) -> F64:
    """Returns the official score, 0 to 1, of summed rows of :func:`semeval_each`; (..., 3 x relations) to (...).

    The mean is over the relations that are wanted in what was summed.
    """
    right, guessed, wanted = np.split(sums, 3, axis=-1)
    return _mean_where(_over(2 * right, guessed + wanted), wanted > 0)


def _undirected(label: str) -> str:
    found = _DIRECTED.fullmatch(label)
    return found[1] if found else label


def _places(labels: Sequence[str], among: Sequence[str]) -> I64:
    """Returns each label's place, -1 where it is not among them."""
    places = {label: place for place, label in enumerate(among)}
    return np.array([places.get(label, -1) for label in labels], np.int64)


def _blocks(guessed: I64, wanted: I64, same: npt.NDArray[np.bool_] | None, labels: int) -> F64:
    rows = np.zeros((3, len(guessed), labels))
    examples = np.arange(len(guessed))
    right = (guessed == wanted) & (wanted >= 0) & (True if same is None else same)
    for block, places, counted in ((0, wanted, right), (1, guessed, guessed >= 0), (2, wanted, wanted >= 0)):
        rows[block, examples[counted], places[counted]] = 1
    return np.concatenate(list(rows), 1)


def _over(top: F64, bottom: F64) -> F64:
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) != 0)


def _mean_where(values: F64, counted: npt.NDArray[np.bool_]) -> F64:
    return _over(np.where(counted, values, 0.0).sum(-1), counted.sum(-1).astype(np.float64))


def _refuse_only_excluded(some: bool, excluded: Collection[str]) -> None:
    if not some:
        raise DataError(
            f"all labels are excluded ({', '.join(sorted(excluded))})", "check the labels and those to be excluded"
        )
