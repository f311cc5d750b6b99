"""What an encoder that labels finds in a batch of texts: entities and triples, the answer to a question, a label."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmyard.models.span_tagger import SpanTagger, SpanTaggerConfig
from llmyard.models.text_classifier import TextClassifier
from llmyard.tasks.knowledge_graph import entities_of, merge_mentions
from llmyard.tasks.labelling import parts_of
from llmyard.tasks.task import Annotation, Choice, Entity, Marked
from llmyard.tokens.tokenizer import Encoded
from llmyard.training.objectives import pad

MAX_ENTITIES = 64  # a text with more has its relations looked for among the first ones only


def tag(
    model: SpanTagger, texts: Sequence[str], encoded: Sequence[Encoded], tokens_BT: torch.Tensor
) -> list[Annotation]:
    """Returns what the model finds in each text: entities and triples, or the answer to its question.

    Args:
        model: The tagger, in evaluation mode.
        texts: The texts.
        encoded: Their tokens and spans.
        tokens_BT: Their tokens, padded, where the model is.
    """
    hidden_BTD = model.encode(tokens_BT)
    logits_BTK = model.tags(hidden_BTD).float()
    if model.config.question_end >= 0:
        context_BT = model.context(tokens_BT)
        return [
            _answer(text, item, logits_TK, context_T, model.config)
            for text, item, logits_TK, context_T in zip(texts, encoded, logits_BTK, context_BT, strict=True)
        ]
    tags_BT = logits_BTK.argmax(-1).tolist()
    types, names = model.config.entity_types, model.config.relations
    found = [
        entities_of(text, item, tags[: len(item.ids)], types)
        for text, item, tags in zip(texts, encoded, tags_BT, strict=True)
    ]
    starts = [[first for _, first in each[:MAX_ENTITIES]] for each in found]
    if not names or not any(starts):
        return [Annotation(tuple(entity for entity, _ in each), ()) for each in found]
    related = model.relate(hidden_BTD, pad(starts, 0).to(tokens_BT.device)) > 0
    annotations = []
    for row, each in enumerate(found):
        pairs = [
            (one, names[relation], two)
            for relation, one, two in related[row].nonzero().tolist()
            if one < len(starts[row]) and two < len(starts[row]) and one != two
        ]
        annotations.append(merge_mentions([entity for entity, _ in each], pairs))
    return annotations


def best_span(logits_TK: torch.Tensor, allowed_T: torch.Tensor, longest: int) -> tuple[float, int, int]:
    """Returns (score, first, last token) of the likeliest single span.

    Under BIO tags that are drawn token by token, a span's probability against that of no span at all is the product of
    its tags' odds against all tags that are not of such spans; the score is the logarithm of that, in nats. Negative:
    none is likelier.

    Args:
        logits_TK: Of outside, begins, goes on, and of the tags of other kinds of spans.
        allowed_T: Tokens that a span may be made of.
        longest: Most tokens of a span.
    """
    logits = logits_TK.masked_fill(~allowed_T[:, None], 0.0)
    others = torch.cat((logits[:, :1], logits[:, 3:]), 1).logsumexp(1)
    begins, goes_on = logits[:, 1] - others, logits[:, 2] - others
    sums = torch.cat((torch.zeros(1, device=logits.device), goes_on.cumsum(0)))
    count = len(begins)
    first = torch.arange(count, device=logits.device)[:, None]
    last = first + torch.arange(min(longest, count), device=logits.device)[None, :]
    inside = last.clamp(max=count - 1)
    scores = begins[:, None] + sums[inside + 1] - sums[first + 1]
    outside = torch.cat((torch.zeros(1, device=logits.device), (~allowed_T).float().cumsum(0)))
    crosses = (outside[inside + 1] - outside[first]) > 0
    scores = scores.masked_fill(crosses | (last >= count), -torch.inf)
    at = int(scores.argmax())
    row, length = divmod(at, scores.shape[1])
    return float(scores[row, length]), row, row + length


def _answer(
    text: str, encoded: Encoded, logits_TK: torch.Tensor, context_T: torch.Tensor, shape: SpanTaggerConfig
) -> Annotation:
    count = len(encoded.ids)
    allowed = context_T[:count]
    if not bool(allowed.any()):
        return Annotation((), ())
    kind, *others = shape.entity_types
    found = _best(text, encoded, logits_TK[:count], allowed, kind, shape)
    for at, other in enumerate(others, start=1):  # the evidence: what the answer follows from
        own = [1 + 2 * at, 2 + 2 * at]
        order = [0, *own, *(tag for tag in range(1, logits_TK.shape[1]) if tag not in own)]
        found += _best(text, encoded, logits_TK[:count, order], allowed, other, shape)
    if others:
        tags = logits_TK[:count].argmax(-1).masked_fill(~allowed, 0).tolist()
        further = [each for each, _ in entities_of(text, encoded, tags, shape.entity_types) if each.type != kind]
        taken = [(each.start, each.end) for each in found if each.type != kind]
        found += [each for each in further if all(each.end <= low or high <= each.start for low, high in taken)]
    return Annotation(tuple(found), ())


def _best(
    text: str, encoded: Encoded, logits_TK: torch.Tensor, allowed: torch.Tensor, kind: str, shape: SpanTaggerConfig
) -> list[Entity]:
    """Returns the likeliest span of a kind, without the spaces before it; of evidence only where it is likelier than
    none.
    """
    score, first, last = best_span(logits_TK, allowed, shape.max_answer_tokens)
    low, high = encoded.spans[first][0], encoded.spans[last][1]
    while low < high and text[low].isspace():
        low += 1
    if low == high or (score <= 0 and kind != shape.entity_types[0]):
        return []
    return [Entity(text[low:high], kind, low, high, score)]


def choose(
    model: TextClassifier, marked: Sequence[Marked], encoded: Sequence[Encoded], tokens_BT: torch.Tensor
) -> list[Choice]:
    """Returns each text's label, with the probabilities of all.

    Args:
        model: The classifier, in evaluation mode.
        marked: The texts with their parts.
        encoded: Their tokens and spans.
        tokens_BT: Their tokens, padded, where the model is.
    """
    parts = [parts_of(each, item) or [0] for each, item in zip(marked, encoded, strict=True)]
    parts_BT = pad(parts, 0, tokens_BT.shape[1]).clamp(max=model.config.parts).to(tokens_BT.device)
    shares_BC = model(tokens_BT, parts_BT).float().softmax(-1).tolist()
    names = model.config.classes
    found = []
    for shares in shares_BC:
        by_name = dict(zip(names, shares, strict=True))
        found.append(Choice(max(by_name, key=by_name.__getitem__), by_name))
    return found
