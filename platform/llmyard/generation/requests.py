"""What all engines of this process do with requests: they check them, let them wait for the one thread that computes,
choose tokens as they were asked to, hand out pieces, and count.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import TypeVar

import torch

from llmyard.core.errors import LlmyardError
from llmyard.core.seeds import mix
from llmyard.generation.constrained import Grammars
from llmyard.generation.control import Controls
from llmyard.generation.engine import Capabilities, Delta, EngineClosed, Finish, GenerateRequest, Stats, Unsupported
from llmyard.generation.likelihoods import MAX_BATCH, Likelihood, fitted
from llmyard.generation.queued import Call, Outbox, Sequenced, failure_of, likely_of, nucleus, run_call
from llmyard.generation.text_stream import TextStream
from llmyard.tasks.task import Annotation, Choice, Decoding, Marked
from llmyard.tokens.tokenizer import Encoded, Tokenizer
from llmyard.training.objectives import pad

MAX_TOP_LOGPROBS = 20  # as OpenAI has it
# Colder than this the likeliest token is taken: the division would overflow, and the draw could not differ.
MIN_TEMPERATURE = 1e-4

T = TypeVar("T")
U = TypeVar("U")


class QueueingEngine(ABC):
    """An engine with one thread that computes; its subclasses say how.

    Waiting requests are joined into a batch; requests that arrive meanwhile form the next one.

    Args:
        tokenizer: Of the model.
        able: What the model can do.
        vocab_size: Ids that it knows.
    """

    def __init__(self, tokenizer: Tokenizer, able: Capabilities, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self._able, self._vocab_size = able, vocab_size
        self._grammars, self._controls = Grammars(tokenizer), Controls(tokenizer)
        self._queue: queue.Queue[Sequenced | Call | None] = queue.Queue()
        self._live: dict[str, Sequenced] = {}
        self._stats = Stats()
        self._closed = self._ends = False
        self._outbox = Outbox()
        self._under_way: list[Sequenced] = []
        self._door = threading.Lock()  # nothing is put behind the mark that ends the thread
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @abstractmethod
    def _write(self, sequences: list[Sequenced]) -> None:
        """Writes all answers of a batch to their ends, by :meth:`_choose` and :meth:`_advance`; an engine that can
        takes those in that :meth:`_arrived` gives meanwhile.
        """

    @abstractmethod
    def _annotate(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns what is found in a batch of texts."""

    @abstractmethod
    def _classify(self, texts: Sequence[Marked]) -> list[Choice]:
        """Returns the labels of a batch of texts."""

    @abstractmethod
    def _score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Likelihood]:
        """Returns how likely answers are; all that is asked for at once."""

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns the vectors of a batch of texts."""

    def capabilities(self) -> Capabilities:
        """Returns what the model can do."""
        return self._able

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        """Yields the answer as it is written."""
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta | LlmyardError] = asyncio.Queue()
        sequence = self._sequence(request, lambda delta: self._outbox.post(loop, deltas, delta))
        if self._live.setdefault(request.id, sequence) is not sequence:
            raise Unsupported(f"a request with the id {request.id!r} is under way", "give each its own")
        try:
            self._submit(sequence)
            while True:
                delta = await deltas.get()
                if isinstance(delta, LlmyardError):
                    raise delta
                yield delta
                if delta.finish is not None:
                    return
        finally:
            sequence.aborted.set()  # a reader that left early frees its place in the batch
            self._live.pop(request.id, None)

    def generate_batch(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[str]:
        """Returns answers to many prompts at once, for work that does not stream.

        Raises:
            LlmyardError: As :meth:`generate` does; then no answer is returned.
        """
        results: list[Future[str]] = []

        def emitter(parts: list[str], result: Future[str]) -> Callable[[Delta | LlmyardError], None]:
            def emit(delta: Delta | LlmyardError) -> None:
                if isinstance(delta, LlmyardError):
                    result.set_exception(delta)
                    return
                parts.append(delta.text)
                if delta.finish is not None:
                    result.set_result("".join(parts))

            return emit

        sequences = []
        for index, prompt in enumerate(prompts):
            results.append(Future())
            request = GenerateRequest(str(index), prompt, **asdict(decoding))
            sequences.append(self._sequence(request, emitter([], results[-1])))
        for sequence in sequences:
            self._submit(sequence)
        return [result.result() for result in results]

    async def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        """Returns entities and triples of each text."""
        return await asyncio.wrap_future(self._call(self._annotate, texts))

    def annotate_batch(self, texts: Sequence[str]) -> list[Annotation]:
        """Like :meth:`annotate`, for callers without an event loop."""
        return self._call(self._annotate, texts).result()

    def score_batch(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Likelihood]:
        """Returns how likely each answer is behind its prompt.

        Of a prompt that does not fit into the model's positions beside its answer, the beginning is left out.

        Args:
            prompts: Token ids, at least one each.
            answers: Token ids, at least one each.

        Raises:
            Unsupported: The model does not write; an empty prompt or answer, or one longer than the model's positions.
        """
        kept = fitted(self._able, prompts, answers)
        result: Future[list[Likelihood]] = Future()
        self._submit(Call(lambda: self._score(kept, answers), result))
        return result.result()

    def rank_batch(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[float]]:
        """Returns how likely each option is behind its prompt: the mean log-probability of its tokens, in nats.

        Args:
            prompts: Token ids.
            options: Token ids of the options of each prompt.
        """
        pairs = [(prompt, option) for prompt, some in zip(prompts, options, strict=True) for option in some]
        found = iter(self.score_batch([prompt for prompt, _ in pairs], [option for _, option in pairs]))
        return [[next(found).mean for _ in some] for some in options]

    async def classify(self, texts: Sequence[Marked]) -> list[Choice]:
        """Returns the label of each text."""
        return await asyncio.wrap_future(self._call(self._classify, texts))

    def classify_batch(self, texts: Sequence[Marked]) -> list[Choice]:
        """Like :meth:`classify`, for callers without an event loop."""
        return self._call(self._classify, texts).result()

    async def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns a vector for each text."""
        return await asyncio.wrap_future(self._call(self._encode, texts))

    def abort(self, request_id: str) -> None:
        """Ends a request."""
        sequence = self._live.get(request_id)
        if sequence is not None:
            sequence.aborted.set()

    def stats(self) -> Stats:
        """Returns counts for monitoring, as they are now."""
        return dataclasses.replace(self._stats, waiting=self._queue.qsize(), alive=self._thread.is_alive())

    async def drain(self) -> None:
        """Takes no more requests and returns when those under way are answered."""
        self.close(wait=False)
        await asyncio.to_thread(self._thread.join)

    def close(self, wait: bool = True) -> None:
        """Like :meth:`drain`, for callers without an event loop."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if wait:
            self._thread.join()

    def _sequence(self, request: GenerateRequest, emit: Callable[[Delta | LlmyardError], None]) -> Sequenced:
        """Returns the sequence of a request that the model can answer; raises Unsupported for any other.

        What is checked here would else fail in the model, and with it all requests of the batch.
        """
        able, prompt = self._able, request.prompt
        if not able.generates:
            raise Unsupported(f"{able.model} does not write, it {able.does}", f"use its {able.route}")
        if not 0 < len(prompt) <= able.max_prompt_tokens:
            said = f"the prompt has {len(prompt)} tokens; {able.model} takes 1 to {able.max_prompt_tokens}"
            raise Unsupported(said, "shorten it")
        if min(prompt) < 0 or max(prompt) >= self._vocab_size:
            raise Unsupported(f"the prompt has ids that {able.model} does not know", "use its own tokenizer")
        if request.max_new_tokens < 1:
            raise Unsupported(f"max_new_tokens is {request.max_new_tokens}", "ask for 1 at least")
        if not 0 <= request.temperature < math.inf:
            raise Unsupported(f"the temperature is {request.temperature}", "give 0 or more")
        if not 0 < request.top_p <= 1:
            raise Unsupported(f"top_p is {request.top_p}", "give more than 0, and 1 at most")
        if not 0 <= (request.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
            raise Unsupported(f"top_logprobs is {request.top_logprobs}", f"ask for 0 to {MAX_TOP_LOGPROBS}")
        room = self._room(request)
        grammar = self._grammars.begin(request.json_schema, request.regex)
        control = self._controls.begin(request)
        ends = frozenset([self.tokenizer.end_id, *map(self.tokenizer.control, request.end_tokens)])
        return Sequenced(request, emit, room, TextStream(self.tokenizer), grammar, control, ends)

    def _room(self, request: GenerateRequest) -> int:
        """Returns how many tokens the answer may have."""
        if self._able.max_total_tokens is None:
            return request.max_new_tokens
        return min(request.max_new_tokens, self._able.max_total_tokens - len(request.prompt))

    def _submit(self, item: Sequenced | Call) -> None:
        with self._door:
            if self._closed:
                raise EngineClosed("the engine is shutting down", "send the request again")
            self._stats.requests += 1
            self._queue.put(item)

    def _call(self, run: Callable[[Sequence[U]], list[T]], texts: Sequence[U]) -> Future[list[T]]:
        """Has the computing thread work on texts, a batch at a time."""
        texts = list(texts)

        def batches() -> list[T]:
            return [item for at in range(0, len(texts), MAX_BATCH) for item in run(texts[at : at + MAX_BATCH])]

        call = Call(batches, Future())
        self._submit(call)
        return call.future

    def _work(self) -> None:
        """The computing thread: calls one by one, generations together."""
        while not self._ends:
            self._under_way = []
            sequences = self._arrived(MAX_BATCH, waits=True)
            if not sequences:
                continue
            try:
                self._write(sequences)
            except Exception as error:
                self._fail(self._under_way, error)

    def _arrived(self, most: int, waits: bool = False) -> list[Sequenced]:
        """Returns requests for answers that have come since, ``most`` of them; answers all else that has come.

        Args:
            most: How many there is room for.
            waits: Whether to wait until something comes.
        """
        found: list[Sequenced] = []
        while len(found) < most and not self._ends and ((waits and not found) or not self._queue.empty()):
            item = self._queue.get()
            if item is None:
                self._ends = True
            elif isinstance(item, Call):
                run_call(item)
                waits = False
            else:
                self._stats.running += 1
                if item.request.begun is not None:
                    item.request.begun()
                if not self._ended(item):
                    found.append(item)
                    self._stats.prompt_tokens += len(item.request.prompt)
        self._under_way = [each for each in self._under_way if not each.finished] + found
        return found

    def _fail(self, sequences: Sequence[Sequenced], error: Exception) -> None:
        """Tells the readers of answers that have not ended what went wrong."""
        failure = failure_of(error)
        for sequence in sequences:
            if not sequence.finished:
                self._stats.failed += 1
                self._emit(sequence, failure)

    def _choose(self, logits_BV: torch.Tensor, sequences: Sequence[Sequenced]) -> list[int]:
        """Returns each sequence's next token: the likeliest, or sampled with the request's own seed."""
        tell = {
            row: likely_of(logits_BV[row], sequence.request.top_logprobs)
            for row, sequence in enumerate(sequences)
            if sequence.request.top_logprobs is not None
        }
        for row, sequence in enumerate(sequences):
            if sequence.grammar is not None:
                logits_BV[row] = sequence.grammar.allow(logits_BV[row])
            if sequence.control is not None:
                logits_BV[row] = sequence.control.allow(logits_BV[row], sequence.ids)
        chosen: list[int] = logits_BV.argmax(-1).tolist()
        for row, sequence in enumerate(sequences):
            request = sequence.request
            if request.temperature > MIN_TEMPERATURE:
                generator = torch.Generator().manual_seed(mix(request.seed, len(sequence.ids)) >> 1)
                shares = (logits_BV[row].float().cpu() / request.temperature).softmax(-1)
                drawn = int(torch.multinomial(nucleus(shares, request.top_p), 1, generator=generator))
                # The likeliest token completes no forbidden word; one that was drawn may.
                refused = sequence.control is not None and sequence.control.refuses(sequence.ids, drawn)
                chosen[row] = chosen[row] if refused else drawn
        for row, likely in tell.items():
            sequences[row].likely = likely(chosen[row])
        return chosen

    def _advance(self, sequence: Sequenced, token: int) -> bool:
        """Takes a new token into a sequence and emits it; returns whether the sequence goes on."""
        if self._ended(sequence):
            return False
        if token in sequence.ends:
            self._emit(sequence, Delta((), sequence.stream.end(), "stop"))
            return False
        if sequence.grammar is not None:
            sequence.grammar.take(token)
        sequence.ids.append(token)
        self._stats.generated_tokens += 1
        finish: Finish | None = "length" if len(sequence.ids) >= sequence.room else None
        text = sequence.stream.add(token)
        likely = () if sequence.likely is None else (sequence.likely,)
        self._emit(sequence, Delta((token,), text + sequence.stream.end() if finish else text, finish, likely))
        return finish is None

    def _ended(self, sequence: Sequenced) -> bool:
        """Returns whether a sequence was aborted, and says so to its reader."""
        if sequence.aborted.is_set() and not sequence.finished:
            self._stats.aborted += 1
            self._emit(sequence, Delta((), sequence.stream.end(), "aborted"))
        return sequence.finished

    def _emit(self, sequence: Sequenced, delta: Delta | LlmyardError) -> None:
        sequence.finished = isinstance(delta, LlmyardError) or delta.finish is not None
        if sequence.finished:  # counted before its reader is told
            self._stats.running = max(0, self._stats.running - 1)
        sequence.emit(delta)

    def _encoded(self, texts: Sequence[str]) -> tuple[list[Encoded], torch.Tensor]:
        """Returns the tokens of texts with their spans, and padded (B, T); an empty text stands as one end token."""
        limit = self._able.max_prompt_tokens
        encoded = self.tokenizer.encode_with_spans(texts)
        longest = max(len(item.ids) for item in encoded)
        if longest > limit:
            raise Unsupported(f"a text has {longest} tokens; {self._able.model} takes {limit}", "split it")
        return encoded, pad([item.ids or [self.tokenizer.end_id] for item in encoded], self.tokenizer.pad_id)
