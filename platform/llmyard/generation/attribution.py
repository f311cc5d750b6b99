"""How much each token of an input did for an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmyard.generation.torch_engine import TorchEngine
from llmyard.models.growing import token_embeddings
from llmyard.models.text_classifier import TextClassifier
from llmyard.models.text_encoder import TextEncoder
from llmyard.tasks.labelling import parts_of
from llmyard.tasks.task import Choice, Decoding, Marked, Record, Task
from llmyard.training.adversarial import hooked

STEPS = 24


@dataclass(frozen=True, slots=True)
class Attribution:
    """What the tokens of an input did for an answer.

    Attributes:
        tokens: Texts of the tokens.
        gradients: Integrated gradients: how much each raised the answer's score, in nats; their sum is how much
            likelier the answer is than behind an empty input.
        attention: The share of the last layer's attention that each got, over all heads and places; () of a model that
            is not an encoder.
        answer: What they did it for.
    """

    tokens: tuple[str, ...]
    gradients: tuple[float, ...]
    attention: tuple[float, ...]
    answer: str


def integrated_gradients(
    layers: Sequence[nn.Module], score_of: Callable[[], Tensor], steps: int = STEPS, places: int | None = None
) -> Tensor:
    """Returns what each place of the first input did for a score (T): Sundararajan et al. 2017, equation 3.

    The path goes from embeddings of 0 to those of the input, and is cut in the middle of each of its steps.

    Args:
        layers: The embedding layers of the model; their first call is that of the input (1, T).
        score_of: Reads the input and returns the score, a number.
        steps: Of the path.
        places: How many of the first places are the input; the rest stays as it is. None: all of them.
    """
    seen: list[Tensor] = []

    def note(output: Tensor) -> Tensor:
        seen.append(output.detach())
        return output

    with _first_call(layers, note), torch.no_grad():
        score_of()
    whole = seen[0]
    total = torch.zeros_like(whole)
    for step in range(steps):
        point = whole.clone()
        point[:, :places] *= (step + 0.5) / steps
        point.requires_grad_()
        total += torch.autograd.grad(_score_at(layers, point, score_of), point)[0]
    found: Tensor = (total / steps * whole).sum(-1)[0]
    return found


def _score_at(layers: Sequence[nn.Module], point: Tensor, score_of: Callable[[], Tensor]) -> Tensor:
    with _first_call(layers, lambda output: point), torch.enable_grad():
        return score_of()


@contextmanager
def _first_call(layers: Sequence[nn.Module], change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Changes what layers give the first time that one of them is called."""
    calls = 0

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return change(output) if calls == 1 else output

    with hooked(layers, hook):
        yield


def attributions_of(engine: TorchEngine, task: Task, cases: Sequence[Record], decoding: Decoding) -> list[Attribution]:
    """Returns what the tokens of each case's input did for the model's own answer; nothing of span taggers. Of several
    inputs of a case it is the one where the model is surest of another label than it gives to most of them.

    Args:
        engine: With the model; nothing else may be asked of it meanwhile.
        task: Of the model.
        cases: Asked one after the other.
        decoding: Of written answers.
    """
    model = engine.model
    if isinstance(model, TextClassifier):
        return [_of_label(engine, model, task, case) for case in cases]
    if task.output != "text" or isinstance(model, TextEncoder):
        return []
    return [_of_text(engine, model, task, case, decoding) for case in cases]


def _of_label(engine: TorchEngine, model: TextClassifier, task: Task, case: Record) -> Attribution:
    inputs = task.inputs(case, engine.tokenizer)
    marked = inputs[0] if len(inputs) == 1 else _telling(inputs, engine.classify_batch(inputs))
    (encoded,) = engine.tokenizer.encode_with_spans([marked.text])
    limit = engine.capabilities().max_prompt_tokens
    ids = torch.tensor([encoded.ids[:limit]])
    parts = torch.tensor([parts_of(marked, encoded)[:limit]]).clamp(max=model.config.parts)
    with torch.no_grad():
        label = int(model(ids, parts)[0].argmax())

    def score() -> Tensor:
        return model(ids, parts).float().log_softmax(-1)[0, label]  # type: ignore[no-any-return]

    found = integrated_gradients(token_embeddings(model), score)
    return _attribution(engine, encoded.ids[:limit], found, _attention(model, ids, parts), model.config.classes[label])


def _telling(inputs: Sequence[Marked], found: Sequence[Choice]) -> Marked:
    usual, _ = Counter(each.label for each in found).most_common(1)[0]
    return min(zip(inputs, found, strict=True), key=lambda each: each[1].shares[usual])[0]


def _of_text(engine: TorchEngine, model: Any, task: Task, case: Record, decoding: Decoding) -> Attribution:
    prompt = task.prompt(case, engine.tokenizer)
    (said,) = engine.generate_batch([prompt], decoding)
    answer = [*engine.tokenizer.encode(said), engine.tokenizer.end_id]
    if model.config.is_encoder_decoder:
        source, inputs = torch.tensor([prompt]), torch.tensor([[prompt[-1], *answer[:-1]]])

        def logits() -> Tensor:
            return model(input_ids=source, decoder_input_ids=inputs).logits[0]  # type: ignore[no-any-return]
    else:
        whole = torch.tensor([[*prompt, *answer[:-1]]])

        def logits() -> Tensor:
            return model(input_ids=whole).logits[0, len(prompt) - 1 :]  # type: ignore[no-any-return]

    wanted = torch.tensor(answer)

    def score() -> Tensor:
        return logits().float().log_softmax(-1).gather(1, wanted[:, None]).sum()

    found = integrated_gradients(token_embeddings(model), score, places=len(prompt))[: len(prompt)]
    return _attribution(engine, prompt, found, (), said)


def _attention(model: TextClassifier, ids: Tensor, parts: Tensor) -> tuple[float, ...]:
    before = model.bert.config._attn_implementation
    model.bert.set_attn_implementation("eager")  # the others do not keep the weights
    try:
        with torch.no_grad():
            out = model.bert(ids, attention_mask=ids != model.config.pad_token_id, token_type_ids=parts,
                             output_attentions=True)  # fmt: skip
    finally:
        model.bert.set_attn_implementation(before)
    return tuple(out.attentions[-1][0].mean((0, 1)).tolist())


def _attribution(
    engine: TorchEngine, ids: Sequence[int], gradients: Tensor, attention: tuple[float, ...], answer: str
) -> Attribution:
    tokens = tuple(engine.tokenizer.decode([id_]) or "·" for id_ in ids)
    return Attribution(tokens, tuple(gradients.tolist()), attention, answer)
