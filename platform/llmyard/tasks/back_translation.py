"""More training examples by a translation model of one's own.

Of a translation the target is translated into the source's language: the model learns to write what people wrote, from
what a machine wrote (Sennrich et al. 2016). Of other tasks a text goes into the other language and back, sentence by
sentence: a paraphrase (Yu et al. 2018). Where an answer must stand in a text at its place, only the question changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llmyard.tasks.task import LANGUAGE_TOKENS, Record
from llmyard.text.script import language_by_script

# Translates texts into a language; in their order.
Translate = Callable[[Sequence[str], str], list[str]]

# Which text of a task's records may be said in other words, its answer staying right.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "translation": ("source",),
    "classification": ("text", "text_pair"),
    "summarization": ("text",),
    "question_answering": ("question",),
}
_SENTENCE = re.compile(r"[^。！？!?；;\n]+?(?:[。！？!?；;\n]+|\.(?=\s|$)|$)[”’」』\")\s]*|[^\S]+|.")
_LEAST, _MOST = 0.5, 2.0  # of the length: a translator that is stuck writes far less or more


def back_translated(records: Sequence[Record], task_kind: str, translate: Translate) -> Iterator[Record]:
    """Yields a copy of each record with its text translated, by the id ``...~back``; none where that changes nothing,
    or where it became less than half or more than twice as long.

    Args:
        records: Of the task, checked.
        task_kind: One of ``config.BACK_TRANSLATED``.
        translate: The model.
    """
    for field in _FIELDS[task_kind]:
        chosen = [record for record in records if record.get(field)]
        texts = [str(record[field]) for record in chosen]
        if task_kind == "translation":
            made = _each_way(
                [str(record["target"]) for record in chosen],
                [record["source_language"] for record in chosen],
                translate,
            )
        else:
            made = paraphrased(texts, translate)
        for record, before, after in zip(chosen, texts, made, strict=True):
            if after.strip() and after.split() != before.split() and _LEAST <= len(after) / len(before) <= _MOST:
                yield {
                    **record,
                    field: after,
                    "id": f"{record.get('id', '')}~back{'' if field != 'text_pair' else '2'}",
                }


def paraphrased(texts: Sequence[str], translate: Translate) -> list[str]:
    """Returns texts translated into the other language and back, sentence by sentence."""
    pieces = [_SENTENCE.findall(text) for text in texts]
    languages = [language_by_script(text) for text in texts]
    sentences = [piece.strip() for found in pieces for piece in found]
    homes = [language for found, language in zip(pieces, languages, strict=True) for _ in found]
    away = _each_way(sentences, ["zh" if home == "en" else "en" for home in homes], translate)
    back = iter(_each_way(away, homes, translate))
    return ["".join(_with_space(piece, next(back)) for piece in found) for found in pieces]


def _with_space(before: str, after: str) -> str:
    """Returns a sentence within the white space that the former one had."""
    if not before.strip():
        return before
    return before[: len(before) - len(before.lstrip())] + after.strip() + before[len(before.rstrip()) :]


def _each_way(texts: Sequence[str], targets: Sequence[Any], translate: Translate) -> list[str]:
    """Returns texts, each translated into a language; what is empty stays so."""
    made = [""] * len(texts)
    for target in LANGUAGE_TOKENS:
        places = [at for at, wanted in enumerate(targets) if wanted == target and texts[at].strip()]
        said = translate([texts[at] for at in places], target) if places else []
        for at, text in zip(places, said, strict=True):
            made[at] = text
    return made
