"""The part of a long text that a question is about: what a model reads that cannot read all of it."""

from __future__ import annotations

from llmyard.tasks.floors import by_overlap, sentence_features, sentence_spans


def focused(text: str, query: str, language: str, characters: int) -> str:
    """Returns the sentences of a text that share most with a query, in the order of the text; all of a short one, the
    first ones where none shares anything.

    Words count by how rare they are in the text, in Chinese characters and pairs of them. A sentence brings those
    beside it, as far as there is room: what was answered stands next to what was asked.

    Args:
        text: Any.
        query: What is asked of it.
        language: "zh" or another.
        characters: Length of the result at most, but for one sentence that is longer alone.
    """
    if len(text) <= characters:
        return text
    spans, asked = sentence_spans(text), sentence_features(query, language)
    features = [sentence_features(text[low:high], language) for low, high in spans]
    related = [place for place in by_overlap(features, asked) if features[place] & asked]
    joint = "" if language == "zh" else " "
    chosen: set[int] = set()
    left = characters
    for place in (each for found in related or range(len(spans)) for each in (found, found - 1, found + 1)):
        if place in chosen or not 0 <= place < len(spans):
            continue
        size = spans[place][1] - spans[place][0] + len(joint)
        if size > left and chosen:
            break
        chosen.add(place)
        left -= size
    return joint.join(text[slice(*spans[place])] for place in sorted(chosen))
