"""An engine on CTranslate2, which computes fast on CPUs, in 8-bit integers too.

CTranslate2 writes a batch greedily in a loop of its own, with a key-value cache, and calls back at each token. Where a
request wants other tokens than the likeliest ones (it samples, or is bound to a JSON schema, a language, or words),
they are chosen outside, from the logits that the call brings along; where the choice is CTranslate2's too, the loop
goes on. Where it is not, this answer leaves the loop and begins another one behind the chosen token.

What that costs: a decoder reads prompt and answer so far once more, at once, for each token that is not the likeliest
one; an encoder-decoder reads its source again, and the answer so far token by token. At worst, with random weights,
where hardly any token that is drawn is the likeliest, 8 answers of 32 tokens took 6 to 9 times as long as greedy ones.
Greedy answers cost nothing more, nor do ``min_new_tokens`` and ``end_tokens``. A loop that tells its logits keeps all
of them until it ends: it is cut where these would take more than :data:`LOGIT_BYTES`.

A decoder's prompts of one batch are read at once up to the shortest one's length, and what is longer token by token:
prompts of very different lengths therefore form batches of their own.

Nothing can join a loop. Where requests wait, and half of a batch is free, it is cut as soon as what it has written
outweighs what has to be read again, and begun anew with them.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmyard.core.errors import LlmyardError
from llmyard.generation.capable import MAX_PROMPT_TOKENS
from llmyard.generation.ctranslate2_models import HEADS, Description, Encoder, Manner, Row, Writer, open_model
from llmyard.generation.engine import Capabilities, GenerateRequest, Unsupported
from llmyard.generation.likelihoods import MAX_BATCH, Likelihood, vectors_of
from llmyard.generation.queued import Sequenced
from llmyard.generation.requests import MIN_TEMPERATURE, QueueingEngine
from llmyard.generation.tagging import choose, tag
from llmyard.models.span_tagger import SpanTagger, SpanTaggerConfig
from llmyard.models.text_classifier import TextClassifier, TextClassifierConfig
from llmyard.models.text_encoder import TextEncoder
from llmyard.tasks.task import Annotation, Choice, Marked
from llmyard.tokens.tokenizer import FILE, Tokenizer

LOGIT_BYTES = 2**27
_LEAST_STEPS = 8  # of a loop, however large its logits are
_LEAST_SHARE = 16  # steps of a loop, however many wait
# Answers whose logits are looked at together: CTranslate2 sorts its batch by std::sort, which up to here is stable, so
# that the rows of the logits stand in the order in which the prompts were given.
_MOST_HELD = 16

_LABELLERS: dict[str, Callable[[dict[str, Any]], TextEncoder]] = {
    SpanTaggerConfig.model_type: lambda shape: SpanTagger(SpanTaggerConfig(**shape)),
    TextClassifierConfig.model_type: lambda shape: TextClassifier(TextClassifierConfig(**shape)),
}


class CTranslate2Engine(QueueingEngine):
    """Answers with one model that llmyard exported to CTranslate2.

    Args:
        model: To answer with.
        tokenizer: Of the model.
        name: Reference shown in :meth:`capabilities`.
        labeller: Of a model that labels: its heads, on the model.
    """

    def __init__(
        self, model: Writer | Encoder, tokenizer: Tokenizer, name: str = "model", labeller: TextEncoder | None = None
    ) -> None:
        self._model, self._labeller = model, labeller
        self._description = model.config if isinstance(model, Writer) else model.description
        self._room_left = MAX_BATCH
        super().__init__(tokenizer, capabilities_of(self._description, name), self._description.vocab_size)

    @classmethod
    def load(
        cls, folder: str | Path, name: str = "model", threads: int | None = None, compute_type: str = "default"
    ) -> CTranslate2Engine:
        """Returns an engine with an exported model.

        Args:
            folder: The model with its ``tokenizer.json``.
            name: As above.
            threads: CPU threads that compute; None leaves CTranslate2's own number.
            compute_type: In what is computed; ``default`` keeps what the weights are saved in where the CPU can.

        Raises:
            RequestError: No model that llmyard exported, or the CPU cannot compute so; CTranslate2 is not installed.
            CorruptArtifact: Its files are damaged.
        """
        model = open_model(Path(folder), threads, compute_type)
        labeller = _labeller(model, Path(folder)) if isinstance(model, Encoder) else None
        return cls(model, Tokenizer.load(Path(folder, FILE)), name, labeller)

    @property
    def model(self) -> Any:
        """The model; its ``config`` says what the exporter said of it."""
        return self._model

    def _room(self, request: GenerateRequest) -> int:
        room, most = super()._room(request), self._description.answer_positions
        return room if most is None else min(room, most)

    def _write(self, sequences: list[Sequenced]) -> None:
        runs: dict[int, int] = {}
        while sequences:
            before = sum(len(sequence.ids) for sequence in sequences)
            self._room_left = MAX_BATCH - len(sequences)
            for group in self._groups(sequences, runs):
                self._run(group, runs)
            left = [sequence for sequence in sequences if not self._ended(sequence)]
            if len(left) == len(sequences) and before == sum(len(sequence.ids) for sequence in left):
                raise LlmyardError("CTranslate2 wrote no token of unfinished answers", "export the model again")
            sequences = left + self._arrived(MAX_BATCH - len(left))

    def _others_wait(self) -> bool:
        """Returns whether something waits, and half of a batch is free for it."""
        return self._room_left >= MAX_BATCH // 2 and not self._queue.empty()

    def _share(self, group: Sequence[Sequenced]) -> int:
        """Returns after how many steps a loop may be cut: it has then written half as many tokens as are to be read
        again at once, or as many as are to be read again one by one.
        """
        assert isinstance(self._model, Writer)
        sizes = [self._model.size(_row(sequence)) for sequence in group]
        if self._model.counts_written:
            written = max(len(sequence.ids) for sequence in group)
            return written + max(_LEAST_SHARE, written)
        return max(sizes) - min(sizes) + max(_LEAST_SHARE, max(sizes) // 2)

    def _groups(self, sequences: Sequence[Sequenced], runs: dict[int, int]) -> list[list[Sequenced]]:
        """Returns batches of sequences that are written in the same manner, the longest first in each.

        Those that have been written least come first: what has just arrived does not wait for long answers.
        """
        alike: dict[Any, list[Sequenced]] = {}
        for sequence in sequences:
            key = (_is_held(sequence), tuple(sorted(sequence.ends)), self._least(sequence))
            alike.setdefault(key, []).append(sequence)
        assert isinstance(self._model, Writer)
        groups = []
        for some in alike.values():
            sizes = [self._model.size(_row(sequence)) for sequence in some]
            # An encoder reads its sources at once, however long each is: nothing is gained by keeping them apart.
            apart = not self._description.is_encoder_decoder
            allowed = [runs.get(id(sequence), sequence.room) if apart else max(sizes) for sequence in some]
            most = _MOST_HELD if _is_held(some[0]) else MAX_BATCH
            groups += [[some[at] for at in batch] for batch in by_size(sizes, allowed, most, apart)]
        return sorted(groups, key=lambda group: max(len(sequence.ids) for sequence in group))

    def _least(self, sequence: Sequenced) -> int:
        return max(0, sequence.request.min_new_tokens - self._uncounted(sequence))

    def _uncounted(self, sequence: Sequenced) -> int:
        """Returns how many written tokens CTranslate2 takes for the prompt's."""
        assert isinstance(self._model, Writer)
        return 0 if self._model.counts_written else len(sequence.ids)

    def _run(self, group: Sequence[Sequenced], runs: dict[int, int]) -> None:
        """Writes on until each answer has ended or wants another token than the likeliest one."""
        assert isinstance(self._model, Writer)
        held = _is_held(group[0])
        most = max(sequence.room - self._uncounted(sequence) for sequence in group)
        if held:
            steps = max(_LEAST_STEPS, LOGIT_BYTES // (4 * self._vocab_size * len(group)))
            most = min(most, steps + max(len(sequence.ids) - self._uncounted(sequence) for sequence in group))
        before = [len(sequence.ids) for sequence in group]
        manner = Manner(tuple(sorted(group[0].ends)), min(self._least(group[0]), most), most, held)
        run = _Run(self, group, held)
        self._model.write([_row(sequence) for sequence in group], manner, run)
        if run.error is not None:
            raise run.error
        for sequence, length in zip(group, before, strict=True):
            runs[id(sequence)] = max(1, len(sequence.ids) - length)

    def _annotate(self, texts: Sequence[str]) -> list[Annotation]:
        if not isinstance(self._labeller, SpanTagger):
            raise Unsupported(f"{self._able.model} does not tag, it {self._able.does}", f"use its {self._able.route}")
        encoded, tokens_BT = self._encoded(texts)
        with torch.inference_mode():
            return tag(self._labeller, texts, encoded, tokens_BT)

    def _classify(self, texts: Sequence[Marked]) -> list[Choice]:
        if not isinstance(self._labeller, TextClassifier):
            able = self._able
            raise Unsupported(f"{able.model} chooses no labels, it {able.does}", f"use its {able.route}")
        encoded, tokens_BT = self._encoded([each.text for each in texts])
        with torch.inference_mode():
            return choose(self._labeller, texts, encoded, tokens_BT)

    def _score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Likelihood]:
        assert isinstance(self._model, Writer)
        return self._model.likelihoods(prompts, answers)

    def _encode(self, texts: Sequence[str]) -> list[list[float]]:
        encoded, tokens_BT = self._encoded(texts)
        with torch.inference_mode():
            if self._labeller is not None:
                rows: list[list[float]] = vectors_of(self._labeller, tokens_BT, self.tokenizer.pad_id).tolist()
                return rows
            ids = [item.ids or [self.tokenizer.end_id] for item in encoded]
            if isinstance(self._model, Writer):
                hidden_BTD = self._model.hidden(ids)
            else:
                mask_BT = tokens_BT != self.tokenizer.pad_id
                hidden_BTD = self._model(tokens_BT, attention_mask=mask_BT).last_hidden_state.numpy()
        return [np.mean(hidden_TD[: len(each)], 0).tolist() for hidden_TD, each in zip(hidden_BTD, ids, strict=True)]


class _Run:
    """Follows one loop of CTranslate2: takes its tokens into the answers, and says which of them leave it.

    Args:
        engine: Whose answers they are.
        group: The answers, in the order of the logits' rows.
        held: Whether their tokens are chosen here.
    """

    def __init__(self, engine: CTranslate2Engine, group: Sequence[Sequenced], held: bool) -> None:
        self._engine, self._group, self._held = engine, group, held
        self._skipped = [len(sequence.ids) - engine._uncounted(sequence) for sequence in group]
        self._share, self._step, self._cut = engine._share(group), -1, False
        self._alive, self._gone = list(range(len(group))), set[int]()
        self._logits_BV = torch.zeros(0)
        self.error: Exception | None = None

    def __call__(self, step: Any) -> bool:
        """Takes a step of one answer; returns whether that ends in this loop."""
        if self.error is not None:
            return True
        if step.step != self._step:  # all answers leave a loop that is cut after the same step
            self._step = step.step
            self._cut = self._cut or (step.step >= self._share and self._engine._others_wait())
        try:
            goes_on = self._taken(step)
        except Exception as error:  # kept, so that it does not pass through code that is not Python
            self.error, goes_on = error, False
        ends = self._cut or not goes_on
        if ends or step.is_last:
            self._gone.add(step.batch_id)
        return ends

    def _taken(self, step: Any) -> bool:
        row = step.batch_id
        sequence = self._group[row]
        if self._held and step.logits.shape:  # a step's first call brings the logits of all rows
            self._alive = [each for each in self._alive if each not in self._gone]
            self._logits_BV = torch.from_numpy(np.array(step.logits, np.float32))
            if len(self._logits_BV) != len(self._alive):
                raise LlmyardError("CTranslate2's logits are not those of the answers under way", "use another version")
        if step.step < self._skipped[row]:
            return not self._engine._ended(sequence)
        if not self._held:
            return self._engine._advance(sequence, step.token_id)
        logits_1V = self._logits_BV[self._alive.index(row)][None]
        if logits_1V[0, step.token_id] < logits_1V.max():
            raise LlmyardError("CTranslate2's token is not the likeliest of its logits", "use another version")
        (chosen,) = self._engine._choose(logits_1V, [sequence])
        return self._engine._advance(sequence, chosen) and chosen == step.token_id


def capabilities_of(description: Description, name: str) -> Capabilities:
    """Returns what an exported model can do."""
    writes = description.form in ("decoder", "encoder_decoder")
    return Capabilities(
        name, description.model_type, writes, description.model_type == SpanTaggerConfig.model_type,
        description.positions or MAX_PROMPT_TOKENS, description.total,
        classifies=description.model_type == TextClassifierConfig.model_type, engine="ctranslate2",
    )  # fmt: skip


def by_size(sizes: Sequence[int], allowed: Sequence[int], most: int, repeats: bool = True) -> list[list[int]]:
    """Returns batches of numbers of prompts, in each the longest first.

    A batch reads at once what its shortest prompt is long, and the rest of the others token by token. So a prompt that
    is longer than the shortest one by more tokens than it is likely to write begins a batch of its own; and one of a
    single token, which CTranslate2 repeats in the answers of longer ones beside it.

    Args:
        sizes: Tokens of the prompts.
        allowed: Tokens that each is likely to write.
        most: Prompts of a batch.
        repeats: Whether a single token is repeated.
    """
    batches: list[list[int]] = []
    for at in sorted(range(len(sizes)), key=sizes.__getitem__):
        least = sizes[batches[-1][0]] if batches else 0
        longer = 0 if repeats and least == 1 else allowed[at]
        if batches and len(batches[-1]) < most and sizes[at] - least <= longer:
            batches[-1].append(at)
        else:
            batches.append([at])
    return [batch[::-1] for batch in batches]


def _is_held(sequence: Sequenced) -> bool:
    """Returns whether an answer's tokens may be others than CTranslate2 would choose by itself, or are told of."""
    asked = sequence.request
    if sequence.grammar is not None or asked.temperature > MIN_TEMPERATURE or asked.top_logprobs is not None:
        return True
    return bool(asked.language or asked.forbidden or asked.no_repeat)


def _row(sequence: Sequenced) -> Row:
    return Row(sequence.request.prompt, tuple(sequence.ids))


def _labeller(model: Encoder, folder: Path) -> TextEncoder | None:
    """Returns the heads of a model that labels, on its encoder."""
    from safetensors.torch import load_file

    if model.description.labeller is None:
        return None
    with torch.device("meta"):  # weights that are replaced take no memory
        labeller = _LABELLERS[model.description.model_type](model.description.labeller)
    labeller.bert = model
    labeller.load_state_dict(load_file(folder / HEADS), assign=True)
    labeller.eval()
    return labeller
