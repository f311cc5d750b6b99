"""Texts that a model writes while it trains: the quickest way to see what it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmyard.core.seeds import mix
from llmyard.stages.config import Pretrain
from llmyard.tasks.catalogue import form_of
from llmyard.training.config import objectives_of

if TYPE_CHECKING:
    from llmyard.stages.training import TrainJob
    from llmyard.tokens.tokenizer import Tokenizer
    from llmyard.training.seeing import Samples
    from llmyard.training.streams import Stream

PROMPT_TOKENS = 12
HELD_OUT = 2  # texts of each source
_MANY = 1 << 30


@dataclass(frozen=True)
class Prompt:
    """What a model is given.

    Attributes:
        ids: Read by the model.
        start: Token that the decoder of an encoder-decoder begins with; None for a model without one.
        hidden: Places whose token is to be guessed; none where the model goes on writing.
    """

    ids: list[int]
    start: int | None = None
    hidden: tuple[int, ...] = ()


class Sampler:
    """Writes on the same prompts each time.

    Args:
        job: Whose model it is.
        tokenizer: Of the model.
        streams: What the job is judged by, by source.
    """

    def __init__(self, job: TrainJob, tokenizer: Tokenizer, streams: dict[str, Stream]) -> None:
        assert job.config.samples is not None
        self._config: Samples = job.config.samples
        self._tokenizer, self._seed = tokenizer, job.config.seed
        self._prompts = _prompts(job, tokenizer, streams, self._config.prompts)

    def is_due(self, step: int, last: int) -> bool:
        """Returns whether texts are written after a step."""
        return step % self._config.every_steps == 0 or step == last

    def __call__(self, model: Any) -> list[tuple[str, str]]:
        """Returns (prompt, text) of each prompt; training's random numbers stay what they are."""
        import torch

        was_training = model.training
        model.eval()
        found = []
        with torch.no_grad(), torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            for number, prompt in enumerate(self._prompts):
                torch.manual_seed(mix(self._seed, number) >> 1)
                write = self._filled if prompt.hidden else self._written
                found.append(write(model, prompt))
        model.train(was_training)
        return found

    def _written(self, model: Any, prompt: Prompt) -> tuple[str, str]:
        import torch
        from transformers import GenerationConfig

        # Where positions are learned, a causal model's prompt takes a part of them; an encoder has its own.
        learned = getattr(model.config, "positions", "") == "learned"
        room = model.config.max_tokens if learned else getattr(model.config, "max_position_embeddings", None) or _MANY
        read = prompt.ids[-room + 1 :]
        ids = torch.tensor([read], device=model.device)
        count = min(self._config.tokens, room - len(read) if prompt.start is None else room - 1)
        plan = GenerationConfig(
            max_new_tokens=count, do_sample=True, top_k=0, top_p=0.9, temperature=0.8,
            pad_token_id=self._tokenizer.pad_id, eos_token_id=self._tokenizer.end_id,
            decoder_start_token_id=prompt.start,
        )  # fmt: skip
        written = model.generate(ids, generation_config=plan, attention_mask=torch.ones_like(ids))[0].tolist()
        new = written[len(read) :] if prompt.start is None else written[1:]
        end = self._tokenizer.end_id
        return self._text(prompt.ids), self._text(new[: new.index(end)] if end in new else new)

    def _filled(self, model: Any, prompt: Prompt) -> tuple[str, str]:
        import torch

        logits = model(input_ids=torch.tensor([prompt.ids], device=model.device)).prediction_logits[0]
        guessed = logits[list(prompt.hidden), : self._tokenizer.vocab_size].argmax(-1).tolist()
        ids = list(prompt.ids)
        for place, guess in zip(prompt.hidden, guessed, strict=True):
            ids[place] = guess
        return self._text(prompt.ids), self._text(ids, set(prompt.hidden))

    def _text(self, ids: Sequence[int], marked: set[int] | None = None) -> str:
        """Returns the text of ids; what no text has, and what was guessed, stands in angle brackets."""
        size, parts, run = self._tokenizer.vocab_size, [], list[int]()
        for place, each in enumerate([*ids, -1]):
            is_guess = marked is not None and place in marked
            if 0 <= each < size and not is_guess:
                run.append(each)
                continue
            parts.append(self._tokenizer.decode(run))
            run = []
            if is_guess:
                parts.append(f"⟨{self._tokenizer.decode([each]).strip()}⟩")
            elif each >= size:
                parts.append(f"⟨{each - size}⟩")
        return "".join(parts).strip()


def _prompts(job: TrainJob, tokenizer: Tokenizer, streams: dict[str, Stream], given: Sequence[str]) -> list[Prompt]:
    config = job.config
    is_whole = len(streams) == 1
    judged = [stream for name, stream in streams.items() if name or is_whole]
    places = [(stream, at) for stream in judged for at in _apart(stream, HELD_OUT if is_whole else 1)]
    if not isinstance(config, Pretrain):
        return [_example(stream.view(at.shard, at.row, 0), job) for stream, at in places]
    kind = objectives_of(config.objective)[0].kind
    if kind in ("causal_lm", "recurrent_lm"):
        if given:
            return [Prompt(tokenizer.encode(text)) for text in given]
        rows = [stream.batch([at])["ids"][0].tolist() for stream, at in places]
        return [Prompt(row[: min(PROMPT_TOKENS, len(row) // 2)]) for row in rows]
    if kind == "masked_lm":
        found = []
        for stream, at in places:
            sample = stream.view(at.shard, at.row, 0)
            hidden = tuple(place for place, label in enumerate(sample.labels.tolist()) if label >= 0)
            found.append(Prompt(sample.ids.tolist(), hidden=hidden))
        return found
    if given:
        tail = [tokenizer.vocab_size] if kind == "span_corruption" else []
        return [Prompt([*tokenizer.encode(text), *tail, tokenizer.end_id], tokenizer.pad_id) for text in given]
    rows = [stream.batch([at])["source"][0].tolist() for stream, at in places]
    return [Prompt(row, tokenizer.pad_id) for row in rows]


def _apart(stream: Stream, count: int) -> list[Any]:
    """Returns the places of some samples that lie far from each other."""
    there = stream.order.samples_per_epoch
    return [stream.order[number * there // count] for number in range(min(count, there))]


def _example(example: Any, job: TrainJob) -> Prompt:
    ids = example.tokens[: example.target_start].tolist()
    return Prompt(ids, ids[-1] if form_of(job.family) == "encoder_decoder" else None)
