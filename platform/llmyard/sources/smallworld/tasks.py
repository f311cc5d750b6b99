"""Task examples: draws a story under the rules of a split, has it written, and reads the labels from the story."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmyard.sources.smallworld.conversations import dialogue
from llmyard.sources.smallworld.draws import Draws, stable_hash
from llmyard.sources.smallworld.languages import REALISERS, SOURCE_VARIETY, TARGET_VARIETY
from llmyard.sources.smallworld.meaning import Entity, Language, Sentence, story_key
from llmyard.sources.smallworld.questions import question_answering
from llmyard.sources.smallworld.story import Made, Teller, triples_of

TASKS = ("translation", "question_answering", "dialogue", "summarization", "knowledge_graph")
SPLITS = ("train", "validation", "test", "test_names", "test_combinations", "test_long")


def split_of(key: str) -> str:
    """The split that a story belongs to, by its content: 8 in 10 are train, so that no two splits share a story."""
    bucket = stable_hash(key) % 10
    return ("validation", "test")[bucket] if bucket < 2 else "train"


def example(seed: int, task: str, split: str, i: int) -> dict[str, Any]:
    """Record ``i`` of a split of a task, ready for JSON; its schema is the task's."""
    wanted = split if split in ("train", "validation") else "test"
    language: Language = "en" if i % 2 == 0 else "zh"
    attempt = 0
    while True:
        draws = Draws(seed, f"{task}/{split}", i, attempt)
        record, key = MAKERS[task](Teller(draws, split), language, split == "test_long")
        if split_of(key) == wanted:
            return {"id": f"{task}-{split}-{i}", "task": task, "split": split, **record()}
        attempt += 1


def translation(teller: Teller, language: Language, long: bool) -> Made:
    """One or two sentences in both languages, each by its own realiser."""
    draws = teller.draws
    sentences: list[Sentence] = []
    for _ in range(2 if long else 1):
        if draws.chance(0.65):
            sentences += teller.event_sentences(draws.chance(0.2) or long)
        else:
            sentences += teller.fact_sentences(teller.relations(1 if draws.chance(0.35) and not long else 2))
            if draws.chance(0.3) and len(sentences) == 1 and len(sentences[0].clauses) == 1:
                mood = draws.pick(("not", "want"))
                sentences = [Sentence((sentences[0].clauses[0]._replace(mood=mood, focus="s", adverb=""),))]
    other: Language = "zh" if language == "en" else "en"

    def record() -> dict[str, Any]:
        source = REALISERS[language](draws, SOURCE_VARIETY).text(sentences).text
        target = REALISERS[other](draws, TARGET_VARIETY).text(sentences).text
        return {"source_language": language, "target_language": other, "source": source, "target": target}

    return record, story_key(sentences)


def knowledge_graph(teller: Teller, language: Language, long: bool) -> Made:
    """A short text, the name mentions in it, and the relations that hold."""
    draws = teller.draws
    count = 4 + draws.below(2) if long else 1 + draws.below(3)
    sentences = teller.fact_sentences(teller.relations(count))
    for _ in range(2 if long else 1):
        if draws.chance(0.5) and len(sentences) < (7 if long else 4):
            sentences.insert(draws.below(len(sentences) + 1), teller.untrue())

    def record() -> dict[str, Any]:
        writer = REALISERS[language](draws).text(sentences)
        entities = [
            {"text": span.label.name(language), "type": span.label.kind, "start": span.start, "end": span.end}
            for span in writer.spans
            if type(span.label) is Entity
        ]
        triples = [
            {"subject": t.subject.name(language), "relation": t.relation, "object": t.object.name(language)}
            for t in triples_of(sentences)
        ]
        return {"language": language, "text": writer.text, "entities": entities, "triples": triples}

    return record, story_key(sentences)


def summarization(teller: Teller, language: Language, long: bool) -> Made:
    """A story of things that change hands, place and colour; the summary tells the state at the end, which no
    sentence states.
    """
    draws = teller.draws
    threads = [teller.thread(2 + draws.below(2)) for _ in range(3 if long else 2)]
    others = teller.fillers(1 + draws.below(2))
    if long or draws.chance(0.4):
        others.insert(0, teller.untrue())
    sentences = teller.interleaved(*(thread.sentences for thread in threads), others)

    def record() -> dict[str, Any]:
        text = REALISERS[language](draws).text(sentences).text
        realiser = REALISERS[language](draws, TARGET_VARIETY)
        ends = [realiser.phrase("summary/end", s=t.owner, o=realiser.title(t.thing), p=t.place) for t in threads]
        return {"language": language, "text": text, "summary": realiser.between.join(ends)}

    return record, story_key(sentences)


MAKERS: dict[str, Callable[[Teller, Language, bool], Made]] = {
    "translation": translation,
    "question_answering": question_answering,
    "dialogue": dialogue,
    "summarization": summarization,
    "knowledge_graph": knowledge_graph,
}
