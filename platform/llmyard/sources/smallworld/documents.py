"""Documents: stories as plain text, web pages and forum threads, with damage and personal data planted and labelled.

Every hundred places hold the groups of ``plan`` (lexicon.yaml); an affine permutation scatters the places over the
corpus, so that
the copies of a document are far apart, and document *i* is still computed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import gcd
from typing import Any, NamedTuple

from llmyard.sources.smallworld import damage
from llmyard.sources.smallworld.bias import PASSAGES, Said, passage
from llmyard.sources.smallworld.draws import Draws, scrambled
from llmyard.sources.smallworld.identifiers import IDENTIFIERS
from llmyard.sources.smallworld.languages import REALISERS
from llmyard.sources.smallworld.lexicon import lexicon
from llmyard.sources.smallworld.meaning import LANGUAGES, Language, Sentence, story_key
from llmyard.sources.smallworld.realiser import Realiser
from llmyard.sources.smallworld.story import Teller
from llmyard.sources.smallworld.tasks import split_of
from llmyard.sources.smallworld.writer import Writer

BLOCK = 100
INVALID_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Document:
    """A document of the corpus and the truth about it.

    Attributes:
        id: Unique in the corpus.
        text: What a crawler would have found.
        language: The declared language.
        source_kind: "plain", "web" (HTML) or "forum".
        damage: What is wrong with it, "" when nothing is; of a duplicate group, the first member is not damaged.
        group: The id of the duplicate group, "" outside of one.
        labels: "pii" ([{type, start, end, valid}]), "slurs" ([{start, end}]), "true_language"; for copies
        "copy_of" and "similarity"
            (Jaccard of character shingles of the bodies), for must-keep pairs "look_alike_of";
            "main_text" and "title" for web pages; "bias" ([{start, end, pronoun, item, expected}]).
    """

    id: str
    text: str
    language: Language
    source_kind: str
    damage: str = ""
    group: str = ""
    labels: dict[str, Any] = field(default_factory=dict)


class Place(NamedTuple):
    """What a place of a block holds: the group's damage, where the group starts, which member this is, and the
    similarity.
    """

    damage: str
    start: int
    member: int
    similarity: float


@cache
def places() -> tuple[Place, ...]:
    """The planned places of a block; the rest of it is clean."""
    result: list[Place] = []
    for group in lexicon().data["plan"]:
        start = len(result)
        result += [Place(group["damage"], start, m, group.get("similarity", 1.0)) for m in range(group["members"])]
    return tuple(result)


class Corpus:
    """All documents of a seed and size; with a bias, clean ones end with what :mod:`.bias` plants."""

    def __init__(self, seed: int, documents: int, bias: float | None = None) -> None:
        self.seed = seed
        self.documents = documents
        self.bias = bias
        stride = scrambled(seed & (2**64 - 1)) % max(documents, 1) | 1
        while gcd(stride, documents) != 1:
            stride += 2
        self.stride, self.inverse = stride, pow(stride, -1, documents) if documents > 1 else 0

    def document(self, i: int) -> Document:
        """Document ``i``, computed alone."""
        at = i * self.stride % self.documents
        block, offset = divmod(at, BLOCK)
        planned = offset < len(places()) and (block + 1) * BLOCK <= self.documents
        place = places()[offset] if planned else Place("", offset, 0, 1.0)
        first = block * BLOCK + place.start
        maker = Maker(Draws(self.seed, "document", first), place, self.id_at(first), self.seed, self.bias)
        return maker.document(f"doc-{i}", self.id_at(at - 1) if place.member else "")

    def id_at(self, at: int) -> str:
        """The id of the document at a place."""
        return f"doc-{at * self.inverse % self.documents}"


class Maker:
    """Makes one document. Members of a group start from the same draws, so they share story, wording and frame."""

    def __init__(self, draws: Draws, place: Place, first: str, seed: int, bias: float | None = None) -> None:
        self.draws, self.place, self.first = draws, place, first
        # Draws of their own, so that the rest of a document is the same with and without a bias.
        self.bias, self.biased = bias, Draws(draws.state, "bias")
        self.own = Draws(seed, "member", int(first[4:]), place.member)
        self.language: Language = draws.pick(LANGUAGES)
        self.written: Language = self.language
        if place.damage == "wrong_language":
            self.written = "en" if self.language == "zh" else "zh"
        self.kind: str = draws.pick(tuple(lexicon().data["source_kinds"]))

    def document(self, name: str, previous: str) -> Document:
        """The document; ``previous`` is the id of what it is a copy of."""
        place = self.place
        labels: dict[str, Any] = {}
        sentences = self.story()
        if place.damage == "look_alike" and place.member:
            sentences = damage.recast(sentences, Teller(self.own, "train"))
        frame = Draws(self.draws.bits())
        paragraphs = self.paragraphs(sentences)
        if place.damage in ("near_duplicate", "chained_duplicate") and place.member:
            paragraphs, labels["similarity"] = self.copies(paragraphs)
        if place.damage in ("mojibake", "word_salad"):
            paragraphs = [self.spoilt(paragraph.text) for paragraph in paragraphs]
        if place.damage == "boilerplate":
            paragraphs = self.boilerplate(frame)
        if self.bias is not None and not place.damage:  # undamaged and alone, so that each is drawn once
            paragraphs += [passage(self.biased, self.written, self.bias) for _ in range(PASSAGES)]
        writer = self.framed(paragraphs, frame, labels)
        for span in writer.spans:
            if type(span.label) is tuple and span.label[0] == "pii":
                labels.setdefault("pii", []).append(
                    {"type": span.label[1], "start": span.start, "end": span.end, "valid": span.label[2]}
                )
            elif span.label == "slur":
                labels.setdefault("slurs", []).append({"start": span.start, "end": span.end})
            elif type(span.label) is Said:
                pronoun, item, expected = span.label
                labels.setdefault("bias", []).append(
                    {"start": span.start, "end": span.end, "pronoun": pronoun, "item": item, "expected": expected}
                )
        if self.written != self.language:
            labels["true_language"] = self.written
        grouped = place.damage.endswith("_duplicate")
        if place.member:
            labels["copy_of" if grouped else "look_alike_of"] = previous
        harmless = place.damage == "look_alike" or (grouped and place.member == 0)
        return Document(
            name,
            writer.text,
            self.language,
            self.kind,
            "" if harmless else place.damage,
            self.first if grouped else "",
            labels,
        )

    def story(self) -> list[Sentence]:
        """A story that belongs to the training split, so that no document tells a test story."""
        draws = self.draws
        while True:
            teller = Teller(Draws(draws.bits()), "train")
            if teller.draws.chance(0.5):
                parts = [
                    teller.thread(2 + draws.below(3)).sentences,
                    teller.fact_sentences(teller.relations(1 + draws.below(3))),
                ]
            else:
                parts = [
                    teller.fact_sentences(teller.relations(2 + draws.below(2))),
                    teller.event_sentences(draws.chance(0.6)),
                ]
            parts.append([teller.untrue(), *teller.event_sentences(False)])
            sentences = teller.interleaved(*parts, teller.fillers(draws.below(3)))
            if split_of(story_key(sentences)) == "train":
                return sentences

    def paragraphs(self, sentences: list[Sentence]) -> list[Writer]:
        """The story written in one to three paragraphs, with personal data or a placeholder slur where planned."""
        draws = self.draws
        realiser = REALISERS[self.written](Draws(draws.bits()))
        size = len(sentences) // (1 + draws.below(3)) + 1
        chunks = [sentences[at : at + size] for at in range(0, len(sentences), size)]
        chosen = draws.below(len(chunks))
        result = []
        for n, chunk in enumerate(chunks):
            realiser.writer, realiser.last_subject, realiser.last_thing = Writer(), (), None
            realiser.text(chunk)
            if n == chosen and self.place.damage in ("pii", "slur"):
                self.plant(realiser)
            result.append(realiser.writer)
        return result

    def plant(self, realiser: Realiser) -> None:
        """Adds one or two sentences with personal data, or one with a placeholder slur."""
        draws = self.draws
        kinds = ["slur"] if self.place.damage == "slur" else draws.shuffled(tuple(IDENTIFIERS))[: 1 + draws.below(2)]
        for kind in kinds:
            realiser.writer.put(realiser.between)
            if kind == "slur":
                word, label, line = draws.pick(lexicon().data["placeholder_slurs"][self.written]), "slur", "slur"
            else:
                valid = not draws.chance(INVALID_SHARE)
                word, line = IDENTIFIERS[kind](draws, self.written, valid), f"pii/{kind}"
                label = ("pii", kind, valid)  # type: ignore[assignment]
            slot = Writer()
            slot.put(word, label)
            realiser.line(line, x=slot)

    def copies(self, paragraphs: list[Writer]) -> tuple[list[Writer], float]:
        """The paragraphs after as many rounds of edits as this is a copy of a copy, and the similarity to the round
        before.
        """
        text, before = "\n".join(paragraph.text for paragraph in paragraphs), ""
        for member in range(1, self.place.member + 1):
            before = text
            draws = Draws(self.draws.state, member)
            text = damage.edited(text, self.written, self.place.similarity, draws, member % 2)
        return [plain(line) for line in text.split("\n")], round(damage.similarity(before, text, self.written), 4)

    def spoilt(self, text: str) -> Writer:
        """The paragraph in mojibake or as word salad."""
        change = damage.mojibake if self.place.damage == "mojibake" else damage.salad
        return plain(change(text, self.written, Draws(self.own.state)))  # one encoding for all paragraphs

    def boilerplate(self, frame: Draws) -> list[Writer]:
        """Menu and footer lines only."""
        web = REALISERS[self.language](frame).grammar["web"]
        lines = frame.shuffled(web["footer"])[:4] + frame.shuffled(web["menu"])[:5]
        return [plain("".join(line)) for line in frame.shuffled(lines)]

    def framed(self, paragraphs: list[Writer], frame: Draws, labels: dict[str, Any]) -> Writer:
        """The paragraphs as plain text, a forum thread or a web page."""
        realiser = REALISERS[self.written](frame)
        teller = Teller(frame, "train")
        writer = Writer()
        if self.kind == "plain":
            for n, paragraph in enumerate(paragraphs):
                writer.put("\n" if n else "")
                writer.extend(paragraph)
            return writer
        if self.kind == "forum":
            title = realiser.phrase("forum/titles", o=realiser.title(teller.thing("buy")), p=teller.entity("place"))
            writer.put(title[0].upper() + title[1:])
            for number, paragraph in enumerate(paragraphs, 1):
                post = f"#{number} {teller.entity('person').name(self.written)}: "
                writer.put("\n" + post)
                writer.extend(paragraph)
                if frame.chance(0.6):
                    writer.put(f"\n{teller.entity('person').name(self.written)}: {realiser.phrase('forum/replies')}")
            return writer
        title = realiser.phrase("web/title", s=teller.entity("person"), p=teller.entity("place"))
        web = realiser.grammar["web"]
        links = "".join(
            f'<li><a href="/{n}">{"".join(line)}</a></li>' for n, line in enumerate(frame.shuffled(web["menu"])[:5])
        )
        foot = "".join(f"<p>{''.join(line)}</p>" for line in frame.shuffled(web["footer"])[:2])
        writer.put(
            f'<!DOCTYPE html><html lang="{self.language}"><head><meta charset="utf-8"><title>{title}</title>'
            f"<script>var page = {frame.below(10000)};</script></head>\n<body><nav><ul>{links}</ul></nav>\n"
            f"<main><h1>{title}</h1>\n"
        )
        for paragraph in paragraphs:
            writer.put("<p>")
            writer.extend(paragraph)
            writer.put("</p>\n")
        writer.put(f"</main>\n<footer>{foot}</footer></body></html>\n")
        labels["title"], labels["main_text"] = title, "\n".join(paragraph.text for paragraph in paragraphs)
        return writer


def plain(text: str) -> Writer:
    """A text without spans."""
    writer = Writer()
    writer.put(text)
    return writer
