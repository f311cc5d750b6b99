"""Which task a stage is about, and its options."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from llmyard.core.config import Config

# Which model families can do a task: they write an answer, or they label what they read.
WRITERS = ("transformer", "gpt2", "llama", "t5")
LABELLERS = ("bert",)
# Families of other makers that are built, and tuned, as one of ours.
KIN = {
    "qwen2": "llama", "qwen3": "llama", "mistral": "llama", "mt5": "t5", "roberta": "bert", "xlm-roberta": "bert",
}  # fmt: skip
# Tasks whose records a translation model can say in other words.
BACK_TRANSLATED = ("translation", "classification", "summarization", "question_answering")
LLMYARD, OF_MODEL = "llmyard", "model"  # templates of conversations that are named, not written out


class _Writing(Config):
    max_source_tokens: int = Field(256, ge=4, description="Of a prompt.")
    max_target_tokens: int = Field(96, ge=4, description="Of an answer with its end.")

    def longest(self, family: str) -> int:
        """Returns the tokens of the longest example, prompt and answer in one."""
        return self.max_source_tokens + self.max_target_tokens


class Translation(_Writing):
    """Translate between English and Chinese, both ways with one model."""

    families: ClassVar = WRITERS
    kind: Literal["translation"] = "translation"
    max_source_tokens: int = Field(128, ge=4)
    max_target_tokens: int = Field(128, ge=4)


class Summarization(_Writing):
    """Say in a sentence or two what a text says, or what it says of a question; a model that labels chooses sentences
    of the text.
    """

    families: ClassVar = LABELLERS + WRITERS
    of_writers: ClassVar = ("cut_sources", "max_target_tokens")
    of_labellers: ClassVar = ("sentences", "passed_over")
    kind: Literal["summarization"] = "summarization"
    cut_sources: bool = Field(
        False, description="Learn from texts that are too long too, without their end; else they are left out."
    )
    focus_characters: int | None = Field(
        None,
        ge=100,
        description="Of a longer text with a query only so many characters are read: the sentences that share most "
        "with the query, and those beside them.",
    )
    sentences: int = Field(2, ge=1, le=50, description="That a model chooses which labels.")
    passed_over: int = Field(
        12,
        ge=1,
        description="Sentences that a summary does not take, for each text that a model learns to choose from.",
    )

    def longest(self, family: str) -> int:
        """Returns the tokens of the longest example; a model that labels reads one sentence at a time."""
        return self.max_source_tokens + (0 if family in LABELLERS else self.max_target_tokens)


class QuestionAnswering(Config):
    """Find the answer to a question in a text, or find that there is none; or write it."""

    families: ClassVar = LABELLERS + WRITERS
    of_writers: ClassVar = ("max_answer_tokens",)
    of_labellers: ClassVar = ("overlap_tokens", "always_answers", "hops")
    kind: Literal["question_answering"] = "question_answering"
    max_tokens: int = Field(256, ge=8, description="Of question and text; longer texts are read in several windows.")
    max_answer_tokens: int = Field(32, ge=1)
    overlap_tokens: int = Field(64, ge=0, description="Of one window with the next.")
    always_answers: bool = Field(False, description="Every question has an answer: never find that there is none.")
    hops: int = Field(
        1,
        ge=1,
        le=8,
        description="How often a model that labels reads at most. Each time it looks for one fact, which then stands "
        "behind the question, until it finds the answer; it learns that from examples that name their evidence.",
    )

    def longest(self, family: str) -> int:
        """Returns the tokens of the longest example; a written answer stands behind question and text."""
        return self.max_tokens + (0 if family in LABELLERS else self.max_answer_tokens)


class KnowledgeGraph(Config):
    """Find entities and (subject, relation, object) triples, as spans of the text or as JSON."""

    families: ClassVar = LABELLERS + WRITERS
    kind: Literal["knowledge_graph"] = "knowledge_graph"
    max_tokens: int = Field(256, ge=8, description="Of the text.")
    max_target_tokens: int = Field(256, ge=8, description="Of the JSON, where the model writes.")

    def longest(self, family: str) -> int:
        """Returns the tokens of the longest example; written JSON stands behind the text."""
        return self.max_tokens + (0 if family in LABELLERS else self.max_target_tokens)


class Classification(Config):
    """Tell which label a text, or a pair of texts, has."""

    families: ClassVar = LABELLERS + WRITERS
    kind: Literal["classification"] = "classification"
    max_tokens: int = Field(256, ge=8, description="Of the text; a longer one loses its end.")
    max_label_tokens: int = Field(16, ge=1, description="Of a label's name, where the model writes it.")

    def longest(self, family: str) -> int:
        """Returns the tokens of the longest example; a written label stands behind the text."""
        return self.max_tokens + (0 if family in LABELLERS else self.max_label_tokens)


class RelationClassification(Config):
    """Tell which relation holds between two entities that are marked in a text."""

    families: ClassVar = LABELLERS + WRITERS
    kind: Literal["relation_classification"] = "relation_classification"
    max_tokens: int = Field(
        128, ge=8, description="Of the text; a longer one loses its end, and is left out where an entity stands there."
    )
    excluded: tuple[str, ...] = Field((), description="Labels that say there is no relation: F1 is of the others.")
    directed: bool = Field(
        False, description="Labels are `Name(e1,e2)` or `Name(e2,e1)`: macro F1 as SemEval-2010 task 8 has it."
    )

    max_label_tokens: int = Field(24, ge=1, description="Of a relation's name, where the model writes it.")

    def longest(self, family: str) -> int:
        """Returns the tokens of the longest example; a written relation stands behind the text."""
        return self.max_tokens + (0 if family in LABELLERS else self.max_label_tokens)


class _Conversation(_Writing):
    max_source_tokens: int = Field(256, ge=8, description="Of what was said before; the oldest turns are forgotten.")

    template: str = Field(
        "llmyard",
        min_length=1,
        description="`llmyard`: each turn behind a token of its role. `model`: the base's own chat template, for a "
        "decoder of a hub that converses already. Else a Jinja template.",
    )
    turn_end: str = Field("", description="With a template: the token that ends an answer; unset, it is found there.")


class Dialogue(_Conversation):
    """Answer in a conversation of several turns; with slots, say what the user wants so far."""

    families: ClassVar = WRITERS
    kind: Literal["dialogue"] = "dialogue"
    slots: bool = Field(False, description="Write the state (`slot=value; ...`) after each turn of the user instead.")

    @model_validator(mode="after")
    def _slots_behind_roles(self) -> Self:
        if self.slots and self.template != LLMYARD:
            raise ValueError("`slots` are written behind llmyard's own template: leave `template` out")
        return self


class Instruction(_Conversation):
    """Follow instructions of many kinds, as a base for questions that were not trained for."""

    families: ClassVar = WRITERS
    kind: Literal["instruction"] = "instruction"


class Preference(_Conversation):
    """Prefer the better one of two replies to the worse (direct preference optimization)."""

    families: ClassVar = ("gpt2", "llama")
    kind: Literal["preference"] = "preference"
    beta: float = Field(0.1, gt=0, description="How strongly the model is held to where it began; less is freer.")


AnyTask = (
    Translation
    | KnowledgeGraph
    | Summarization
    | QuestionAnswering
    | Classification
    | RelationClassification
    | Dialogue
    | Instruction
    | Preference
)
Task = Annotated[AnyTask, Field(discriminator="kind")]
