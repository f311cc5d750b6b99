"""Entities and triples of a batch of texts, by a span tagger."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmyard.models.span_tagger import SpanTagger
from llmyard.tasks.knowledge_graph import entities_of, merge_mentions
from llmyard.tasks.task import Annotation
from llmyard.tokens.tokenizer import Encoded
from llmyard.training.objectives import pad

MAX_ENTITIES = 64  # a text with more has its relations looked for among the first ones only


def tag(
    model: SpanTagger, texts: Sequence[str], encoded: Sequence[Encoded], tokens_BT: torch.Tensor
) -> list[Annotation]:
    """Returns what the model finds in each text.

    Args:
        model: The tagger, in evaluation mode.
        texts: The texts.
        encoded: Their tokens and spans.
        tokens_BT: Their tokens, padded, where the model is.
    """
    hidden_BTD = model.encode(tokens_BT)
    tags_BT = model.tags(hidden_BTD).argmax(-1).tolist()
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
