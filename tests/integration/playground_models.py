"""Small models of the five scenarios that have learned a few records by heart, and a store that holds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TEXTS = {
    "en": "Malo found a green lamp. One morning, Malo went to Kora Town. Malo lives in Kora Town.",
    "zh": "😀马洛找到了一盏绿色的灯。有一天，马洛去了科拉镇。马洛住在科拉镇。",
}
SUMMARIES = {"en": "Malo lives in Kora Town.", "zh": "马洛住在科拉镇。"}
QUESTIONS = {"en": "Where does Malo live?", "zh": "马洛住在哪里？"}
ANSWERS = {"en": "Kora Town", "zh": "科拉镇"}
UNANSWERABLE = "Who drew it?"
CONVERSATIONS = {
    "en": ("A lamp, please.", "Which colour?", "Green.", "Done: a green lamp."),
    "zh": ("我要一盏灯。", "什么颜色？", "绿色。", "好的：绿色的灯。"),
}
NAMES = ("translator", "summaries", "chooser", "reader", "replies", "state", "base", "endless", "triples")
ALIAS = "models:/tiny-translator@champion"  # by which the first one is named
ENDLESS = "a green lamp, "
MANY_TOKENS = 30_000  # so many take far longer than any test looks at them
ENOUGH = 0.002  # of a loss: how many steps that takes is another number on every kind of processor
_SIZE = {"hidden_size": 32, "heads": 2}


def make_models(store: Any, tokenizer: Any, folder: Path) -> None:
    """Commits ``summaries`` and ``chooser``, ``reader``, ``replies``, ``state`` and ``endless`` to a store, all made
    from its ``base`` as far as anybody can tell.
    """
    from llmyard.models.families import save
    from llmyard.tasks.config import Dialogue, QuestionAnswering, Summarization
    from llmyard.tokens.tokenizer import FILE

    parent = store.get("base", "checkpoint").reference
    made: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
        "summaries": (_writer(_summaries()), Summarization()),
        "chooser": (_chooser, Summarization(sentences=1)),
        "reader": (_reader, QuestionAnswering(max_tokens=200)),
        "replies": (_writer(_conversations()), Dialogue()),
        "state": (_writer(_states()), Dialogue(slots=True)),
        "endless": (_endless, None),
    }
    for name, (maker, config) in made.items():
        save(maker(tokenizer, config), folder / name)
        tokenizer.save(folder / name / FILE)
        details = {} if config is None else {"task_config": config.model_dump(mode="json")}
        if name == "chooser":
            details |= {"classes": ["chosen", "other"], "parts": ["3"]}
        with store.begin("checkpoint", name, name) as draft:
            shutil.copytree(folder / name, Path(draft.uri), dirs_exist_ok=True)
            draft.commit(config={}, parents=(parent,), metrics={}, details=details)


def _summaries() -> list[dict[str, Any]]:
    return [{"language": each, "text": TEXTS[each], "summary": SUMMARIES[each]} for each in TEXTS]


def _conversations() -> list[dict[str, Any]]:
    return [{"language": each, "messages": _turns(said)} for each, said in CONVERSATIONS.items()]


def _states() -> list[dict[str, Any]]:
    states = [{"thing": "灯"}, {"thing": "灯", "colour": "绿"}]
    return [{"language": "zh", "messages": _turns(CONVERSATIONS["zh"]), "states": states}]


def _turns(said: Sequence[str]) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[at % 2], "content": each} for at, each in enumerate(said)]


def _writer(records: list[dict[str, Any]]) -> Callable[[Any, Any], Any]:
    """Returns what makes an encoder-decoder that has learned some records."""

    def make(tokenizer: Any, config: Any) -> Any:
        import numpy as np
        import torch

        from llmyard.models.config import EncoderDecoder
        from llmyard.models.families import build
        from llmyard.tasks.catalogue import task_of
        from llmyard.tokens.views import Example
        from llmyard.training.task_objectives import SequenceToSequenceObjective

        torch.manual_seed(5)
        shape = EncoderDecoder(**_SIZE, encoder_layers=1, decoder_layers=1, feed_forward_size=64)
        ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "end_id": tokenizer.end_id}
        model = build(shape, max_tokens=0, **ids)
        none = np.zeros(0, np.int32)
        encoded = task_of(config, "transformer").encode(records, tokenizer, {})
        examples = [
            Example(np.array(each.ids), None, each.target_start, none) for made in encoded for each in made or ()
        ]
        assert examples
        objective = SequenceToSequenceObjective(tokenizer.pad_id)
        batch = objective.collate(examples)
        return _learn(model, lambda: objective.loss(model, batch) / objective.targets(batch), 120)

    return make


def _chooser(tokenizer: Any, config: Any) -> Any:
    """An encoder that finds some sentences better than others, for no reason: its weights are random."""
    import torch

    from llmyard.models.config import Bert
    from llmyard.models.families import ClassHead, build_labeller

    torch.manual_seed(6)
    heads = ClassHead(("chosen", "other"), parts=3)
    shape = Bert(**_SIZE, layers=1, feed_forward_size=64)
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    return build_labeller(shape, heads, max_tokens=config.max_source_tokens, **ids).eval()


def _reader(tokenizer: Any, config: Any) -> Any:
    import numpy as np
    import torch

    from llmyard.models.config import Bert
    from llmyard.models.families import SpanHeads, build_labeller
    from llmyard.tasks.catalogue import task_of
    from llmyard.tasks.question_answering import QUESTION_END
    from llmyard.tokens.views import Example
    from llmyard.training.task_objectives import SpanObjective

    torch.manual_seed(7)
    records: list[dict[str, Any]] = [
        {"language": "zh", "question": UNANSWERABLE, "context": TEXTS["zh"], "answers": []},
        *(
            {
                "language": each, "question": QUESTIONS[each], "context": TEXTS[each],
                "answers": [{"text": ANSWERS[each], "start": TEXTS[each].rindex(ANSWERS[each])}],
            }
            for each in TEXTS
        ),
    ]  # fmt: skip
    task = task_of(config, "bert")
    heads = SpanHeads(("answer",), (), tokenizer.encode(QUESTION_END)[0], config.max_answer_tokens)
    shape = Bert(hidden_size=48, heads=2, layers=2, feed_forward_size=96)
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    model = build_labeller(shape, heads, max_tokens=config.max_tokens, **ids)
    examples = [
        Example(np.array(each.ids), np.array(each.labels), 0, np.array(each.pairs))
        for made in task.encode(records, tokenizer, task.labels(records))
        for each in made or ()
    ]
    objective = SpanObjective(tokenizer.pad_id, 0)
    batch = objective.collate(examples)
    return _learn(model, lambda: objective.loss(model, batch) / objective.targets(batch), 2000)


def _endless(tokenizer: Any, config: None) -> Any:
    """A decoder that says one thing again and again, and has never seen an end."""
    import torch

    from llmyard.models.config import Llama
    from llmyard.models.families import build

    torch.manual_seed(8)
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "end_id": tokenizer.end_id}
    model = build(Llama(**_SIZE, layers=1, feed_forward_size=64), max_tokens=MANY_TOKENS + 1000, **ids)
    said = torch.tensor([tokenizer.encode(ENDLESS * 40)[:96]])
    return _learn(model, lambda: model(input_ids=said, labels=said).loss, 60)


def _learn(model: Any, loss: Callable[[], Any], steps: int) -> Any:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small matrices are slower on several
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        now = loss()
        if now.item() < ENOUGH:
            break
        now.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return model.eval()
