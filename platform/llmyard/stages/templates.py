"""The chat template that comes with a checkpoint, put into the task that is to be learned in it."""

from __future__ import annotations

import json
from typing import Any

from llmyard.core.artifacts import Artifact
from llmyard.core.errors import RequestError
from llmyard.stages.config import Finetune
from llmyard.tasks.chat_template import ChatTemplate, with_names
from llmyard.tasks.config import LLMYARD, OF_MODEL
from llmyard.tokens.tokenizer import FILE, Tokenizer

SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
TEMPLATE_FILES = (SETTINGS, TEMPLATE)


def chat_template(base: Artifact) -> str:
    """Returns the chat template of a checkpoint, which knows the tokens that it names.

    Raises:
        RequestError: It has none.
    """
    written = str((base.details.get("task_config") or {}).get("template", LLMYARD))
    if written != LLMYARD:  # a checkpoint that was tuned in one keeps it there
        return written
    there = {entry.path for entry in base.files()}
    settings: dict[str, Any] = {}
    if SETTINGS in there:
        settings = json.loads(base.local(SETTINGS).read_text(encoding="utf-8"))
    found = settings.get("chat_template")
    if TEMPLATE in there:
        found = base.local(TEMPLATE).read_text(encoding="utf-8")
    if isinstance(found, list):  # several, by name
        found = next((each.get("template") for each in found if each.get("name") == "default"), None)
    if not isinstance(found, str) or not found.strip():
        raise RequestError(
            f"{base.reference} came without a chat template",
            "give `template: llmyard`, a Jinja template, or take the model in again with its tokenizer_config.json",
        )
    return with_names(found, settings)


def with_template(config: Finetune, base: Artifact | None, tokenizer: Artifact) -> Finetune:
    """Returns a stage whose tasks hold their chat template written out, and the token that ends an answer there.

    Raises:
        RequestError: There is no such template, or it has no such token.
    """
    others = tuple(each.model_copy(update={"task": _written(each.task, base, tokenizer)}) for each in config.also)
    return config.model_copy(update={"task": _written(config.task, base, tokenizer), "also": others})


def _written(task: Any, base: Artifact | None, tokenizer: Artifact) -> Any:
    template = getattr(task, "template", LLMYARD)
    if template == LLMYARD:
        return task
    if template == OF_MODEL:
        if base is None:
            raise RequestError("`template: model` is that of a base", "name one as `init`, or give `template: llmyard`")
        template = chat_template(base)
    words = Tokenizer.load(tokenizer.local(FILE))
    end = getattr(task, "turn_end", "") or ChatTemplate(template).turn_end(words)
    try:
        words.control(end)
    except KeyError:
        raise RequestError(f"{tokenizer.reference} has no token {end!r}", "name one of its own as `turn_end`") from None
    if words.name_of(words.encode("a")[0]).startswith("\u2581"):
        raise RequestError(
            f"{tokenizer.reference} writes a space before every stretch of text: its turns cannot be put together",
            "give `template: llmyard`",
        )
    return task.model_copy(update={"template": template, "turn_end": end})
