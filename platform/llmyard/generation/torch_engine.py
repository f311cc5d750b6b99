"""Our own engine on torch: causal decoders, the encoder-decoder Transformer and the span tagger.

One thread computes. Waiting requests are joined into a batch, the batch is decoded with a key-value cache, and a
sequence that ends or is aborted leaves the batch before the next token. Requests that arrive meanwhile form the next
batch.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llmyard.core.errors import LlmyardError
from llmyard.core.seeds import mix
from llmyard.generation.decoders import decoder_of
from llmyard.generation.engine import Capabilities, Delta, EngineClosed, Finish, GenerateRequest, Stats, Unsupported
from llmyard.models.families import load
from llmyard.models.span_tagger import SpanTagger
from llmyard.models.transformer import TransformerModel
from llmyard.tasks.knowledge_graph import entities_of, merge_mentions
from llmyard.tasks.task import Annotation
from llmyard.tokens.tokenizer import FILE, Encoded, Tokenizer
from llmyard.training.objectives import pad

MAX_BATCH = 32
MAX_PROMPT_TOKENS = 4096
MAX_ENTITIES = 64  # a text with more has its relations looked for among the first ones only


@dataclass(eq=False)
class _Sequence:
    """A request under way, with the tokens written so far."""

    request: GenerateRequest
    emit: Callable[[Delta | Exception], None]
    aborted: threading.Event = field(default_factory=threading.Event)
    ids: list[int] = field(default_factory=list)
    shown: str = ""


@dataclass(eq=False)
class _Call:
    """Work for the computing thread that is not generation."""

    run: Callable[[], Any]
    future: Future[Any]


class TorchEngine:
    """Answers with one model in this process.

    Args:
        folder: A saved model with its ``tokenizer.json``.
        name: Reference shown in :meth:`capabilities`.
        threads: CPU threads to compute with; None leaves torch's setting.
        device: Where to compute.
    """

    def __init__(
        self, folder: str | Path, name: str = "model", threads: int | None = None, device: str = "cpu"
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.tokenizer = Tokenizer.load(Path(folder, FILE))
        self._device = torch.device(device)
        self._model = load(folder).to(self._device)
        self._name = name
        self._queue: queue.Queue[_Sequence | _Call | None] = queue.Queue()
        self._live: dict[str, _Sequence] = {}
        self._stats = Stats()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def capabilities(self) -> Capabilities:
        """Returns what the model can do."""
        annotates = isinstance(self._model, SpanTagger)
        config = self._model.config
        limit = getattr(config, "n_positions", None) or getattr(config, "max_tokens", None) or MAX_PROMPT_TOKENS
        return Capabilities(self._name, config.model_type, not annotates, annotates, int(limit))

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Yields the answer as it is written."""
        able = self.capabilities()
        if not able.generates:
            raise Unsupported(f"{able.model} tags text, it does not write", "use its annotate route")
        if not 0 < len(request.prompt) <= able.max_prompt_tokens:
            raise Unsupported(
                f"the prompt has {len(request.prompt)} tokens; {able.model} takes 1 to {able.max_prompt_tokens}",
                "shorten it",
            )
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        sequence = _Sequence(request, lambda delta: _post(loop, deltas, delta))
        self._submit(sequence)
        self._live[request.id] = sequence
        try:
            while True:
                delta = await deltas.get()
                if isinstance(delta, Exception):
                    raise delta
                yield delta
                if delta.finish is not None:
                    return
        finally:
            sequence.aborted.set()  # a reader that left early frees its place in the batch
            self._live.pop(request.id, None)

    def generate_batch(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Returns greedy answers to many prompts at once, for work that does not stream."""
        results: list[str | Exception] = [""] * len(prompts)
        done = threading.Semaphore(0)

        def emitter(index: int) -> Callable[[Delta | Exception], None]:
            def emit(delta: Delta | Exception) -> None:
                if isinstance(delta, Exception):
                    results[index] = delta
                    done.release()
                    return
                results[index] = str(results[index]) + delta.text
                if delta.finish is not None:
                    done.release()

            return emit

        for index, prompt in enumerate(prompts):
            self._submit(_Sequence(GenerateRequest(str(index), prompt, max_new_tokens), emitter(index)))
        for _ in prompts:
            done.acquire()
        answers = []
        for result in results:
            if isinstance(result, Exception):
                raise result
            answers.append(result)
        return answers

    async def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns entities and triples of each text."""
        return await asyncio.wrap_future(self._call(lambda: self._annotate(list(texts))))  # type: ignore[no-any-return]

    def annotate_batch(self, texts: Sequence[str]) -> list[Annotation]:
        """Like :meth:`annotate`, for callers without an event loop."""
        return self._call(lambda: self._annotate(list(texts))).result()  # type: ignore[no-any-return]

    async def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns a vector for each text."""
        return await asyncio.wrap_future(self._call(lambda: self._encode(list(texts))))  # type: ignore[no-any-return]

    def abort(self, request_id: str) -> None:
        """Ends a request."""
        sequence = self._live.get(request_id)
        if sequence is not None:
            sequence.aborted.set()

    def stats(self) -> Stats:
        """Returns counts for monitoring."""
        self._stats.waiting = self._queue.qsize()
        return self._stats

    async def drain(self) -> None:
        """Takes no more requests and returns when those under way are answered."""
        self.close(wait=False)
        await asyncio.to_thread(self._thread.join)

    def close(self, wait: bool = True) -> None:
        """Like :meth:`drain`, for callers without an event loop."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        if wait:
            self._thread.join()

    def _submit(self, item: _Sequence | _Call) -> None:
        if self._closed:
            raise EngineClosed("the engine is shutting down", "send the request again")
        self._queue.put(item)

    def _call(self, run: Callable[[], Any]) -> Future[Any]:
        call = _Call(run, Future())
        self._submit(call)
        return call.future

    def _work(self) -> None:
        """The computing thread: calls one by one, generations in batches."""
        last = False
        while not last:
            first = self._queue.get()
            items = [first]
            while len(items) < MAX_BATCH and not self._queue.empty():
                items.append(self._queue.get_nowait())
            sequences = [item for item in items if isinstance(item, _Sequence)]
            last = None in items
            for item in items:
                if isinstance(item, _Call):
                    _run(item)
            if sequences:
                try:
                    self._generate(sequences)
                except Exception as error:
                    failure = error if isinstance(error, LlmyardError) else LlmyardError(f"the engine failed: {error}")
                    for sequence in sequences:
                        sequence.emit(failure)
                self._stats.running = 0

    @torch.inference_mode()
    def _generate(self, sequences: list[_Sequence]) -> None:
        stats = self._stats
        stats.requests += len(sequences)
        stats.prompt_tokens += sum(len(sequence.request.prompt) for sequence in sequences)
        decoder = decoder_of(self._model, self.tokenizer.pad_id)
        logits_BV = decoder.start([list(sequence.request.prompt) for sequence in sequences], self._device)
        while sequences:
            stats.running = len(sequences)
            chosen = self._choose(logits_BV, sequences)
            stats.generated_tokens += len(sequences)
            kept = [row for row, sequence in enumerate(sequences) if self._advance(sequence, chosen[row])]
            if len(kept) < len(sequences):
                sequences = [sequences[row] for row in kept]
                if not sequences:
                    return
                decoder.select(torch.tensor(kept, device=self._device))
            logits_BV = decoder.step(torch.tensor([sequence.ids[-1:] for sequence in sequences], device=self._device))

    def _choose(self, logits_BV: torch.Tensor, sequences: list[_Sequence]) -> list[int]:
        """Returns each sequence's next token: the likeliest, or sampled with the request's own seed."""
        chosen: list[int] = logits_BV.argmax(-1).tolist()
        for row, sequence in enumerate(sequences):
            request = sequence.request
            if request.temperature > 0:
                generator = torch.Generator().manual_seed(mix(request.seed, len(sequence.ids)) >> 1)
                shares = (logits_BV[row].float().cpu() / request.temperature).softmax(-1)
                chosen[row] = int(torch.multinomial(shares, 1, generator=generator))
        return chosen

    def _advance(self, sequence: _Sequence, token: int) -> bool:
        """Takes a new token into a sequence and emits it; returns whether the sequence goes on."""
        finish: Finish | None = None
        if sequence.aborted.is_set():
            finish = "aborted"
            self._stats.aborted += 1
        elif token == self.tokenizer.end_id:
            finish = "stop"
        else:
            sequence.ids.append(token)
            if len(sequence.ids) >= sequence.request.max_new_tokens:
                finish = "length"
        text = self.tokenizer.decode(sequence.ids)
        # Bytes of an unfinished character decode to U+FFFD: hold them back until the character is whole.
        whole = text if finish else text.rstrip("\ufffd")
        new, sequence.shown = whole[len(sequence.shown) :], whole
        sequence.emit(Delta(tuple(sequence.ids[-1:]) if finish in (None, "length") else (), new, finish))
        return finish is None

    @torch.inference_mode()
    def _annotate(self, texts: list[str]) -> list[Annotation]:
        model = self._model
        if not isinstance(model, SpanTagger):
            raise Unsupported(f"{self._name} writes text, it does not tag", "use its generate route")
        encoded = self._encoded(texts)
        tokens_BT = pad([item.ids or [self.tokenizer.end_id] for item in encoded], self.tokenizer.pad_id).to(
            self._device
        )
        hidden_BTD = model.encode(tokens_BT)
        tags_BT = model.tags(hidden_BTD).argmax(-1).tolist()
        types = model.config.entity_types
        found = [
            entities_of(text, item, tags[: len(item.ids)], types)
            for text, item, tags in zip(texts, encoded, tags_BT, strict=True)
        ]
        starts = [[first for _, first in each[:MAX_ENTITIES]] for each in found]
        if not any(starts):
            return [Annotation((), ()) for _ in texts]
        related = model.relate(hidden_BTD, pad(starts, 0).to(self._device)) > 0
        names = model.config.relations
        annotations = []
        for row, each in enumerate(found):
            pairs = [
                (one, names[relation], two)
                for relation, one, two in related[row].nonzero().tolist()
                if one < len(starts[row]) and two < len(starts[row]) and one != two
            ]
            annotations.append(merge_mentions([entity for entity, _ in each], pairs))
        return annotations

    def _encoded(self, texts: list[str]) -> list[Encoded]:
        limit = self.capabilities().max_prompt_tokens
        encoded = self.tokenizer.encode_with_spans(texts)
        longest = max((len(item.ids) for item in encoded), default=0)
        if longest > limit:
            raise Unsupported(f"a text has {longest} tokens; {self._name} takes {limit}", "split it")
        return encoded

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> list[list[float]]:
        model = self._model
        encoded = self._encoded(texts)
        tokens_BT = pad([item.ids or [self.tokenizer.end_id] for item in encoded], self.tokenizer.pad_id).to(
            self._device
        )
        mask = (tokens_BT != self.tokenizer.pad_id)[..., None]
        if isinstance(model, SpanTagger):
            hidden_BTD = model.encode(tokens_BT)
        elif isinstance(model, TransformerModel):
            hidden_BTD = model.memory(tokens_BT)
        else:
            hidden_BTD = model(input_ids=tokens_BT, output_hidden_states=True).hidden_states[-1]
        vectors = (hidden_BTD * mask).sum(1) / mask.sum(1)
        return vectors.tolist()  # type: ignore[no-any-return]


def _post(loop: asyncio.AbstractEventLoop, deltas: asyncio.Queue[Delta | Exception], delta: Delta | Exception) -> None:
    try:
        loop.call_soon_threadsafe(deltas.put_nowait, delta)
    except RuntimeError:
        return  # the reader's loop has ended: nobody waits for this


def _run(call: _Call) -> None:
    try:
        call.future.set_result(call.run())
    except Exception as error:
        call.future.set_exception(error)
