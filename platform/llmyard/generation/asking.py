"""One question to a model, whatever its task, in the prompt that its training taught."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmyard.generation.engine import Unsupported
from llmyard.generation.model import Model, Written, whole
from llmyard.tasks.task import Decoding, Record, Task
from llmyard.text.script import language_by_script, mostly_chinese

COMPLETION = Decoding(64)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: What was said or found, "" where nothing was found.
        finish: Why it ends.
        triples: What a knowledge-graph model found; None of another model.
    """

    text: str
    finish: str = "stop"
    triples: tuple[tuple[str, str, str], ...] | None = None


def check_question(name: str, task: Task | None, text: str, target: str | None, context: str | None) -> None:
    """Checks a question without the model.

    Raises:
        Unsupported: The text is empty, the task lacks what it needs, or something is given that it does not take.
    """
    kind = "" if task is None else task.name
    if not text.strip():
        raise Unsupported("the text is empty", "give the text as the second argument")
    if kind == "question_answering" and not (context or "").strip():
        raise Unsupported(f"{name} finds answers in a text, and none is given", "give it with --context")
    if context is not None and kind != "question_answering":
        raise Unsupported(f"{name} takes no context", "leave --context out")
    if target is not None and kind != "translation":
        raise Unsupported(f"{name} does not translate", "leave --target out")


async def ask(model: Model, text: str, target: str | None = None, context: str | None = None) -> Reply:
    """Returns a model's answer.

    Args:
        model: For any task, or a base model, which goes on with the text.
        text: To be translated, summarised, tagged or gone on with; of question answering the question.
        target: Language to translate into; None for the other one than the text's.
        context: Where the answer to the question may stand.

    Raises:
        Unsupported: As :func:`check_question` says, or the text is too long.
    """
    task = model.task
    check_question(model.name, task, text, target, context)
    if task is None:
        return _reply(await whole(model.complete(text, COMPLETION)))
    match task.name:
        case "question_answering":
            record: Record = {"question": text, "context": context, "answers": [], "language": language_by_script(text)}
            return Reply(await model.predict(record))
        case "knowledge_graph":
            (found,) = await model.extract([text])
            return Reply("\n".join(" | ".join(triple) for triple in found.triples), triples=found.triples)
        case "classification":
            return Reply((await model.predict({"text": text})).label)
        case "relation_classification":
            return Reply((await model.predict(marked_record(text))).label)
        case "dialogue" | "instruction" | "preference":
            prompt = model.chat_prompt([{"role": "user", "content": text}])
            return _reply(await whole(model.answer(prompt, model.decoding)))
        case "translation":
            return _reply(await whole(model.translate(text, target or ("en" if mostly_chinese(text) else "zh"))))
        case _:
            return _reply(await whole(model.summarise(text)))


def _reply(written: Written) -> Reply:
    return Reply(written.text, written.finish)


def marked_record(text: str) -> Record:
    """Returns the record of a text whose two entities stand in brackets: ``[马洛]住在[科拉镇]。``.

    Raises:
        Unsupported: There are not two.
    """
    parts = re.split(r"\[([^\[\]]+)\]", text)
    if len(parts) != 5:
        raise Unsupported(f"{len(parts) // 2} entities stand in brackets, two are needed", "write [entity] around each")
    before, one, between, two, _ = parts
    first, second = len(before), len(before) + len(one) + len(between)
    return {
        "text": "".join(parts),
        "subject": {"text": one, "start": first, "end": first + len(one)},
        "object": {"text": two, "start": second, "end": second + len(two)},
    }
