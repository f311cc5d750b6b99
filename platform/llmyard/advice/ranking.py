"""Which candidate comes first: points by rule, each of which can be read in ``rules.yaml``."""

from __future__ import annotations

import math

from llmyard.advice.candidates import Candidate, examples_of, tokens_of
from llmyard.advice.plan import hours_there_are
from llmyard.advice.question import Question
from llmyard.advice.rules import rules, upto

_LARGE = 1_000_000_000
_SMALL = 100_000_000
_LABEL_TASKS = ("classification", "relation_classification", "question_answering", "knowledge_graph")


def merit(candidate: Candidate, question: Question) -> float:
    """Returns the points of a candidate; the most come first."""
    use = rules()
    points = use.merit
    amount = examples_of(question)
    model = candidate.published
    size = candidate.shape.parameters
    found = upto(getattr(points, candidate.start), amount)
    if model is not None:
        found += points.tenfold_size * max(0.0, math.log10(size / _SMALL))
        found += points.own_language if set(model.languages) == set(question.languages) else 0
        found += points.convert if model.use == "convert" else 0
        found += points.gated if model.gated else 0
        found += points.short_context if 2 * tokens_of(question) > model.context else 0
    there_are = hours_there_are(question.hardware, question.hours)
    if candidate.hours > there_are:
        found += points.doubled_time * math.log2(candidate.hours / there_are)
    found += 0 if candidate.fits else points.no_fit
    if question.task in _LABEL_TASKS and not candidate.labels:
        found += points.writer_for_labels
    if question.structured and not candidate.labels:
        found += points.writes_structure
    if question.open_domain and question.task != "pretraining":
        if candidate.labels and question.task == "question_answering":
            found += points.open_domain_reader
        else:
            found += points.open_domain_size if size >= _LARGE else points.open_domain_small
    if question.interactive and not question.hardware.has_gpus and size >= _LARGE:
        found += points.slow_on_cpu
    found += points.prompt_only if candidate.method == "prompt_tuning" else 0
    if question.task == "pretraining":
        found += _for_pretraining(candidate, question)
    return found


def _for_pretraining(candidate: Candidate, question: Question) -> float:
    """Returns points for a decoder from random weights where the text is enough for it, else for going on."""
    use = rules()
    text = examples_of(question) * tokens_of(question)
    is_enough = text * use.worthwhile_epochs >= use.tokens_a_parameter * _SMALL
    if candidate.start == "hub":
        return 0.0 if is_enough else 1.0
    return (1.5 if candidate.family == "llama" else 0.5) if is_enough else (1.0 if candidate.family == "llama" else 0.0)
