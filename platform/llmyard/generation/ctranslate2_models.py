"""Models that llmyard exported to CTranslate2, opened: they write, tell how likely texts are, and give vectors.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.generation.ctranslate2_files import (
    CONFIG,
    SHARED_VOCABULARY,
    VOCABULARY,
    WEIGHTS,
    encoder_alone,
    without_output_layer,
)
from llmyard.generation.likelihoods import MAX_BATCH, Likelihood

FIELD = "llmyard"  # of config.json: what the exporter said of the model
HEADS = "heads.safetensors"
_LOGIT_BYTES = 2**28  # of all logits that are looked at together

Watch = Callable[[Any], bool]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Description:
    """What the exporter said of a model.

    Attributes:
        model_type: Its family.
        form: ``decoder``, ``encoder_decoder``, ``labeller`` or ``encoder``.
        vocab_size: Ids that it knows.
        pad_id: Padding token.
        positions: Most tokens that it reads; None where nothing bounds them.
        total: Of prompt and answer together; None where nothing bounds them.
        answer_positions: Most tokens of an answer, apart from the prompt; None where nothing bounds them.
        labeller: Config of a model that labels.
    """

    model_type: str
    form: str
    vocab_size: int
    pad_id: int
    positions: int | None = None
    total: int | None = None
    answer_positions: int | None = None
    labeller: dict[str, Any] | None = None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether prompt and answer are read apart."""
        return self.form == "encoder_decoder"


@dataclass(frozen=True)
class Row:
    """An answer to be gone on with.

    Attributes:
        prompt: Token ids.
        written: Token ids so far.
    """

    prompt: Sequence[int]
    written: Sequence[int] = ()


@dataclass(frozen=True)
class Manner:
    """How a batch is written.

    Attributes:
        ends: Tokens that end an answer.
        least: Tokens before which no end is written.
        most: Tokens after which writing stops.
        logits: Whether steps tell their logits.
    """

    ends: tuple[int, ...]
    least: int
    most: int
    logits: bool = False


class Writer(ABC):
    """A model that writes, by CTranslate2's own loop with its cache.

    Attributes:
        config: What the exporter said of it.
        counts_written: Whether ``least`` and ``most`` count what was written before, too.
    """

    counts_written = False

    def __init__(self, config: Description, names: Sequence[str]) -> None:
        self.config, self._names = config, names

    @abstractmethod
    def write(self, rows: Sequence[Row], manner: Manner, watch: Watch) -> None:
        """Goes on writing, greedily.

        Args:
            rows: The longest to be read first: in that order the rows of a step's logits stand.
            manner: How.
            watch: Called with each token of each row (CTranslate2's ``GenerationStepResult``); True ends the row.
        """

    @abstractmethod
    def likelihoods(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Likelihood]:
        """Returns how likely each answer is behind its prompt."""

    @abstractmethod
    def hidden(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Returns last hidden states (B, T, D) of token ids, those of an encoder where there is one.

        The first call brings the weights into memory a second time.
        """

    def size(self, row: Row) -> int:
        """Returns how many tokens are read at once before the first new one."""
        return len(row.prompt) if self.config.is_encoder_decoder else len(row.prompt) + len(row.written)

    def _spelled(self, ids: Sequence[int]) -> list[str]:
        return [self._names[id_] for id_ in ids]


class CausalWriter(Writer):
    """A decoder (``ctranslate2.Generator``)."""

    def __init__(self, folder: Path, config: Description, options: dict[str, Any]) -> None:
        import ctranslate2

        super().__init__(config, json.loads((folder / VOCABULARY).read_text(encoding="utf-8")))
        self._folder, self._options = folder, options
        self._model = ctranslate2.Generator(str(folder), **options)
        self._reader: Any = None

    def write(self, rows: Sequence[Row], manner: Manner, watch: Watch) -> None:
        """Goes on writing, greedily."""
        self._model.generate_batch(
            [self._spelled([*row.prompt, *row.written]) for row in rows], beam_size=1, end_token=list(manner.ends),
            min_length=manner.least, max_length=manner.most, include_prompt_in_result=False,
            return_logits_vocab=manner.logits, callback=watch,
        )  # fmt: skip

    def likelihoods(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Likelihood]:
        """Returns how likely each answer is behind its prompt; logits are made of the prompts' tokens too."""
        whole = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
        order = sorted(range(len(whole)), key=lambda each: len(whole[each]), reverse=True)
        found: dict[int, Likelihood] = {}
        at = 0
        while at < len(order):
            fit = _LOGIT_BYTES // (4 * self.config.vocab_size * len(whole[order[at]]))
            batch = order[at : at + max(1, min(MAX_BATCH, fit))]
            logits_BTV = np.array(self._model.forward_batch([whole[each] for each in batch]), np.float32)
            for logits_TV, each in zip(logits_BTV, batch, strict=True):
                first = len(prompts[each]) - 1
                found[each] = _likelihood(logits_TV[first : first + len(answers[each])], answers[each])
            at += len(batch)
        return [found[each] for each in range(len(order))]

    def hidden(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Returns the last hidden states (B, T, D)."""
        import ctranslate2

        if self._reader is None:
            files = without_output_layer(self._folder)
            self._reader = ctranslate2.Generator(f"{self._folder} without output", files=files, **self._options)
        return np.array(self._reader.forward_batch([list(row) for row in rows]), np.float32)


class SourceWriter(Writer):
    """An encoder-decoder (``ctranslate2.Translator``): the prompt is the source, its last token begins the answer."""

    counts_written = True

    def __init__(self, folder: Path, config: Description, options: dict[str, Any]) -> None:
        import ctranslate2

        super().__init__(config, json.loads((folder / SHARED_VOCABULARY).read_text(encoding="utf-8")))
        self._folder, self._options = folder, options
        self._model = ctranslate2.Translator(str(folder), **options)
        self._reader: Any = None

    def write(self, rows: Sequence[Row], manner: Manner, watch: Watch) -> None:
        """Goes on writing, greedily; what was written is read again token by token, and told to ``watch`` too."""
        self._model.translate_batch(
            [self._spelled(row.prompt) for row in rows],
            target_prefix=[self._spelled([row.prompt[-1], *row.written]) for row in rows], beam_size=1,
            end_token=list(manner.ends), min_decoding_length=manner.least, max_decoding_length=manner.most,
            max_input_length=0, return_logits_vocab=manner.logits, callback=watch,
        )  # fmt: skip

    def likelihoods(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Likelihood]:
        """Returns how likely each answer is behind its prompt: all its tokens at once; whether it is the likeliest,
        by writing until another token stands there.
        """
        lengths = [(len(answer), len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        found: dict[int, Likelihood] = {}
        for at in range(0, len(order), MAX_BATCH):
            batch = order[at : at + MAX_BATCH]
            scored = self._model.score_batch(
                [self._spelled(prompts[each]) for each in batch],
                [self._spelled([prompts[each][-1], *answers[each]]) for each in batch], max_input_length=0,
            )  # fmt: skip
            likeliest = self._written([Row(prompts[each]) for each in batch], [answers[each] for each in batch])
            for each, score, greedy in zip(batch, scored, likeliest, strict=True):
                said = score.log_probs[: len(answers[each])]  # behind them CTranslate2 scores the end
                found[each] = Likelihood(float(np.sum(said, dtype=np.float64)), len(said), greedy)
        return [found[each] for each in range(len(order))]

    def _written(self, rows: Sequence[Row], answers: Sequence[Sequence[int]]) -> list[bool]:
        """Returns whether the model, asked greedily, writes each answer."""
        others: set[int] = set()

        def watch(step: Any) -> bool:
            answer = answers[step.batch_id]
            if step.step < len(answer) and step.token_id != answer[step.step]:
                others.add(step.batch_id)
            return step.batch_id in others or step.step + 1 >= len(answer)

        self.write(rows, Manner((), 0, max(map(len, answers))), watch)
        return [row not in others for row in range(len(rows))]

    def hidden(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Returns the encoder's last hidden states (B, T, D)."""
        import ctranslate2

        if self._reader is None:
            files = encoder_alone(self._folder)
            self._reader = ctranslate2.Encoder(f"{self._folder} encoder", files=files, **self._options)
        found = self._reader.forward_batch([list(row) for row in rows])
        return np.array(found.last_hidden_state, np.float32)


class Encoder(nn.Module):
    """BERT's encoder (``ctranslate2.Encoder``), called as transformers' ``BertModel`` is."""

    def __init__(self, folder: Path, config: Description, options: dict[str, Any]) -> None:
        import ctranslate2

        super().__init__()
        self.description = config
        self._model = ctranslate2.Encoder(str(folder), **options)

    def forward(
        self,
        tokens_BT: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Returns the last hidden states (B, T, D); those of padding mean nothing.

        Args:
            tokens_BT: Token ids, padded at their ends.
            attention_mask: Where no padding is (B, T).
            token_type_ids: Kinds of the tokens (B, T); 0 by default.
        """
        import ctranslate2

        kinds_BT = torch.zeros_like(tokens_BT) if token_type_ids is None else token_type_ids
        ids, lengths = (
            ctranslate2.StorageView.from_array(each.to(torch.int32).contiguous().numpy())
            for each in (tokens_BT, attention_mask.sum(1))
        )
        found = self._model.forward_batch(ids, lengths, token_type_ids=kinds_BT.tolist())
        return BaseModelOutput(last_hidden_state=torch.from_numpy(np.array(found.last_hidden_state, np.float32)))


def is_exported(folder: str | Path) -> bool:
    """Returns whether a folder holds a model that llmyard exported to CTranslate2."""
    at = Path(folder, CONFIG)
    return Path(folder, WEIGHTS).exists() and at.exists() and FIELD in json.loads(at.read_text(encoding="utf-8"))


def open_model(folder: Path, threads: int | None, compute_type: str, device: str = "cpu") -> Writer | Encoder:
    """Returns the model of a folder.

    Args:
        folder: That the exporter wrote.
        threads: CPU threads that one computation takes; None leaves CTranslate2's own number.
        compute_type: In what is computed; ``default`` keeps what the weights are saved in where the CPU can.
        device: Where.

    Raises:
        RequestError: No model that llmyard exported, or the CPU cannot compute so; ``ctranslate2`` is not installed.
        CorruptArtifact: Its files are damaged.
    """
    try:
        import ctranslate2
    except ImportError:
        raise RequestError(
            "CTranslate2 is not installed, which this model was exported to", "pip install 'llmyard[export]'"
        ) from None
    if not is_exported(folder):
        raise RequestError(f"{folder} holds no model that llmyard exported to CTranslate2", "export one there")
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))[FIELD]
    known = {each.name for each in fields(Description)}
    config = Description(**{name: value for name, value in written.items() if name in known})
    able = {"default", "auto", *ctranslate2.get_supported_compute_types(device)}
    if compute_type not in able:
        raise RequestError(
            f"compute_type is {compute_type!r}, which this {device} cannot", f"it can {', '.join(sorted(able))}"
        )
    options = {
        "device": device, "inter_threads": 1, "intra_threads": threads or 0, "compute_type": compute_type,
        "max_queued_batches": -1,
    }  # fmt: skip
    kinds = {"decoder": CausalWriter, "encoder_decoder": SourceWriter}
    try:
        return kinds.get(config.form, Encoder)(folder, config, options)
    except (RuntimeError, OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise CorruptArtifact(f"CTranslate2 cannot read {folder}: {first}", "export the model again") from None


def _likelihood(logits_TV: Floats, answer: Sequence[int]) -> Likelihood:
    logits = torch.from_numpy(logits_TV)
    ids = torch.tensor(answer)
    said = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
    return Likelihood(float(said.sum()), len(answer), bool((logits.argmax(1) == ids).all()))
