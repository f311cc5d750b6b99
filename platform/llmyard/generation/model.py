"""A checkpoint ready to answer: its engine and its task, so that serving and the command line prompt alike."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llmyard.compression.loading import load
from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.generation.ctranslate2_engine import CTranslate2Engine
from llmyard.generation.ctranslate2_models import is_exported
from llmyard.generation.engine import Delta, Engine, Finish, GenerateRequest, Likely, Unsupported
from llmyard.generation.requests import QueueingEngine
from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.written import shape_of
from llmyard.tasks.catalogue import task_of
from llmyard.tasks.config import Task as TaskConfig
from llmyard.tasks.tagging import with_read
from llmyard.tasks.task import LANGUAGE_TOKENS, Annotation, BadExample, Choice, Decoding, Marked, Record, Task
from llmyard.text.script import language_by_script, mostly_chinese
from llmyard.tokens.tokenizer import Tokenizer
from llmyard.training.adapting import load_adapted

LABEL_NAMES = ("entity_types", "relations", "classes", "parts")


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint.

    Attributes:
        reference: ``checkpoint/name@version``.
        name: As requests name it.
        task: What it was tuned for; None for a base model.
        decoding: How it writes unless a request says otherwise.
        task_config: The task's settings, as a job file has them.
    """

    reference: str
    name: str
    engine: Engine
    tokenizer: Tokenizer
    task: Task | None
    decoding: Decoding = field(default_factory=Decoding)
    task_config: Mapping[str, Any] | None = None

    @classmethod
    def load(cls, artifact: Artifact, threads: int | None = None) -> Model:
        """Returns the model of a checkpoint; its files are verified first."""
        return cls.of(artifact, engine_of(artifact, threads))

    @classmethod
    def of(cls, artifact: Artifact, engine: QueueingEngine) -> Model:
        """Returns the model of a checkpoint that an engine has loaded."""
        task = task_of_checkpoint(artifact)
        decoding = task.decoding(labels_of(artifact)) if task is not None else Decoding()
        config = artifact.details.get("task_config")
        return cls(artifact.reference, artifact.name, engine, engine.tokenizer, task, decoding, config)

    def translate(self, text: str, target: str, decoding: Decoding | None = None) -> AsyncGenerator[Delta]:
        """Yields the translation of a text into ``target`` (en or zh).

        Raises:
            Unsupported: The model does not translate, not into that language, or not a text so long.
        """
        prompt = self.translation_prompt(text, target)
        return self.answer(prompt, decoding or self.decoding)

    async def extract(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns entities and triples of texts; none where a model that writes wrote no valid JSON."""
        found = [await self.predict({"text": text}) for text in texts]
        return [each if isinstance(each, Annotation) else Annotation((), ()) for each in found]

    async def predict(self, record: Record) -> Any:
        """Returns the task's prediction for a record: a text, an annotation, a choice, slots.

        Raises:
            Unsupported: It is a base model, or the record is too long.
        """
        said = await self.said(record)
        assert self.task is not None
        return self.task.prediction(record, said)

    async def said(self, record: Record) -> Any:
        """Returns what the model says of a record, ready for JSON: the text that it wrote, or what it found in each of
        the texts that it read.

        Raises:
            Unsupported: It is a base model, the record is not one of its task, or too long.
        """
        task = self.task
        if task is None:
            raise Unsupported(f"{self.name} is a base model, without a task", "fine-tune it")
        try:
            prompt = self.prompt(record) if task.output == "text" else []
            inputs = [] if task.output == "text" else self._inputs(record)
        except (BadExample, KeyError, TypeError, AttributeError, ValueError) as error:
            what = error.what if isinstance(error, BadExample) else f"{type(error).__name__}: {error}"
            raise Unsupported(f"this is no record of {task.name}: {what}", "give the fields of its records") from None
        if task.output == "text":
            return (await whole(self.answer(prompt, self.decoding))).text
        found: Sequence[Annotation | Choice]
        if task.output == "label":
            found = await self.engine.classify(inputs)
        else:
            found = await self.engine.annotate([each.text for each in inputs])
        said = [asdict(each) for each in found]
        following = task.then(record, said)
        return said if following is None else with_read(following, await self.said(following))

    def prompt(self, record: Record) -> list[int]:
        """Returns the tokens that ask for an answer to a record.

        Raises:
            Unsupported: The record is too long. The task would cut it; half of one answered in silence is worse than a
                refusal.
        """
        assert self.task is not None
        self._refuse_excess(record)
        try:
            return self.task.prompt(record, self.tokenizer)
        except BadExample as error:
            raise Unsupported(error.what, error.remedy) from None

    def excess(self, record: Record) -> int:
        """Returns by how many tokens a record is longer than the model reads at once; 0 or less where it is not."""
        assert self.task is not None
        return self.task.excess(record, self.tokenizer)[0]

    def _inputs(self, record: Record) -> list[Marked]:
        assert self.task is not None
        self._refuse_excess(record)
        return self.task.inputs(record, self.tokenizer)

    def _refuse_excess(self, record: Record) -> None:
        assert self.task is not None
        excess, room = self.task.excess(record, self.tokenizer)
        if excess > 0:
            raise Unsupported(f"the text is {excess} tokens too long; {self.name} reads {room} at once", "split it")

    def summarise(self, text: str, decoding: Decoding | None = None) -> AsyncGenerator[Delta]:
        """Yields a summary of a text, in its own language.

        Raises:
            Unsupported: The model does not summarise, or not a text so long.
        """
        if self.task is not None and self.task.name == "summarization" and self.task.output != "text":
            return self._chosen({"text": text, "language": language_by_script(text)})
        return self.answer(self.summary_prompt(text), decoding or self.decoding)

    async def _chosen(self, record: Record) -> AsyncGenerator[Delta]:
        yield Delta((), str(await self.predict(record)), "stop")

    def complete(self, text: str, decoding: Decoding) -> AsyncGenerator[Delta]:
        """Yields what a base model says after a text."""
        return self.answer(self.completion_prompt(text), decoding)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Returns the tokens that ask for an answer to the last user message.

        A model tuned to converse reads all turns. Of another the last message is answered alone: a translation model
        translates it into the other language, another summarises it, a base model goes on writing after it.

        Raises:
            Unsupported: There is no user message, or the model does not take this one.
        """
        text = next((message["content"] for message in reversed(messages) if message["role"] == "user"), None)
        if text is None:
            raise Unsupported("there is no message of the user", 'send one with "role": "user"')
        if self.task is None:
            return self.completion_prompt(text)
        if self.task.name in ("dialogue", "instruction", "preference"):
            return self.prompt({"messages": list(messages)})
        if self.task.name == "summarization":
            return self.summary_prompt(text)
        return self.translation_prompt(text, "en" if mostly_chinese(text) else "zh")

    def answer(self, prompt: Sequence[int], decoding: Decoding, id_: str | None = None) -> AsyncGenerator[Delta]:
        """Yields what the model writes after a prompt; ``id_`` names it to the engine."""
        return self.engine.generate(GenerateRequest(id_ or uuid.uuid4().hex, prompt, **asdict(decoding)))

    def completion_prompt(self, text: str) -> list[int]:
        """Returns the tokens of a text to go on with; of an empty one that of a document's beginning."""
        return self.tokenizer.encode(text) or [self.tokenizer.end_id]

    def translation_prompt(self, text: str, target: str) -> list[int]:
        """Returns the tokens that ask for the translation of a text into ``target`` (en or zh).

        Raises:
            Unsupported: As :meth:`translate`.
        """
        if self.task is None or self.task.name != "translation":
            raise Unsupported(f"{self.name} does not translate", "choose a translation model")
        if target not in LANGUAGE_TOKENS:
            raise Unsupported(f"cannot translate into {target!r}", f"supported: {', '.join(LANGUAGE_TOKENS)}")
        return self.prompt({"source": text, "target_language": target})

    def summary_prompt(self, text: str, query: str | None = None) -> list[int]:
        """Returns the tokens that ask for a summary of a text in its own language, of what a query asks if there is
        one.

        Raises:
            Unsupported: As :meth:`summarise`.
        """
        if self.task is None or self.task.name != "summarization":
            raise Unsupported(f"{self.name} does not summarise", "choose a summarisation model")
        asked = {} if query is None else {"query": query}
        return self.prompt({"text": text, "language": language_by_script(text), **asked})


def engine_of(artifact: Artifact, threads: int | None = None) -> QueueingEngine:
    """Returns an engine with a checkpoint, with one that was exported to CTranslate2, or with an adapter on the base
    that it was trained for.

    Raises:
        MissingArtifact: The base is gone.
    """
    if is_exported(artifact.local()):
        return CTranslate2Engine.load(artifact.local(), artifact.reference, threads)
    return TorchEngine.load(artifact.local(), artifact.reference, threads, _base_of(artifact))


def model_of(artifact: Artifact) -> Any:
    """Returns the model of a checkpoint, or of an adapter on the base that it was trained for.

    Raises:
        MissingArtifact: The base is gone.
    """
    base = _base_of(artifact)
    return load(artifact.local()) if base is None else load_adapted(base, artifact.local())


def _base_of(artifact: Artifact) -> Path | None:
    named = artifact.details.get("adapter_of")
    return ArtifactStore(artifact.storage).get(str(named), "checkpoint").local() if named else None


def labels_of(artifact: Artifact) -> dict[str, list[str]]:
    """Returns the label names that a checkpoint was trained with."""
    return {key: artifact.details[key] for key in LABEL_NAMES if key in artifact.details}


def task_of_checkpoint(artifact: Artifact) -> Task | None:
    """Returns the task that a checkpoint was tuned for."""
    config = artifact.details.get("task_config")
    if not config:
        return None
    family = artifact.details.get("family") or shape_of(artifact.local("config.json")).family.removeprefix("llmyard_")
    prefix = artifact.details.get("prompt_ids", ())
    return task_of(TypeAdapter(TaskConfig).validate_python(config), str(family), prefix)


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that has ended.

    Attributes:
        text: All of it.
        finish: Why it ended.
        tokens: How many were written.
        likely: Of each token, where the request asked for that.
    """

    text: str
    finish: Finish
    tokens: int
    likely: tuple[Likely, ...] = ()


async def whole(deltas: AsyncIterator[Delta]) -> Written:
    """Returns an answer when it has ended."""
    parts: list[str] = []
    likely: list[Likely] = []
    finish: Finish = "stop"
    tokens = 0
    async for delta in deltas:
        parts.append(delta.text)
        likely += delta.likely
        tokens += len(delta.token_ids)
        finish = delta.finish or finish
    return Written("".join(parts), finish, tokens, tuple(likely))
