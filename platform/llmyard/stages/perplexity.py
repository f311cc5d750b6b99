"""How well a base model foretells held-out text, beside token frequencies and a model that counts n-grams."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmyard.core.artifacts import Artifact
from llmyard.stages.config import Evaluate, Pretrain
from llmyard.stages.origins import training_of
from llmyard.stages.stage import Making

if TYPE_CHECKING:
    from llmyard.tokens.written_text import WrittenText
    from llmyard.training.streams import Stream

LOSS_PARTS = 4  # shares of a split's sequences; fixed, so that the sum's rounding does not depend on the machine


def perplexity(config: Evaluate, making: Making) -> dict[str, Any]:
    """Returns the figures of each split: loss, perplexity, what the objective measures, and those of the baselines."""
    from llmyard.runtime.datasets import map_with

    checkpoint, shards = making.parents["checkpoint"], making.parents["shards"]
    trained = Pretrain.model_validate(training_of(checkpoint))
    scored = {}
    for split in config.splits:
        # A model with a memory reads the split in one piece.
        parts = 1 if trained.objective.kind == "recurrent_lm" else LOSS_PARTS
        units = [{"split": split, "part": part, "parts": parts} for part in range(parts)]
        sums: Counter[str] = Counter()
        batches: list[list[float]] = []
        arguments = (checkpoint, shards, trained, config.batch_size, config.limit)
        for done, row in enumerate(map_with(units, LossWorker, arguments), start=1):
            batches += row.pop("batches")
            sums.update(row)
            making.progress.update(done, len(units), split)
        figures = {
            name: sums[name] / max(1.0, sums[f"{name}/count"]) for name in sorted(sums) if f"{name}/count" in sums
        }
        if "frequency_loss" in figures:  # of pairs, not of tokens: there is no perplexity
            scored[split] = {
                "metrics": {"loss": figures["loss"]},
                "baseline": {"loss": figures["frequency_loss"]},
                "baseline_name": "token frequencies",
                "key_metric": "loss",
            }
            continue
        loss = figures.get("text_loss", figures.get("masked_loss", figures["loss"]))
        others = {name.partition(":")[2]: figures.pop(name) for name in list(figures) if name.startswith("trigram:")}
        for name in [name for name in figures if name.startswith("unigram:")]:
            del figures[name]
        figures |= {f"perplexity:{kind}": math.exp(min(figures[f"text_loss:{kind}"], 50.0)) for kind in others}
        unigram = figures.pop("unigram")
        trigram = {"trigram_perplexity": math.exp(figures.pop("trigram"))} if "trigram" in figures else {}
        spelled, between = _spelled(batches)
        scored[split] = {
            "metrics": {"perplexity": math.exp(min(loss, 50.0)), **spelled, **figures},
            "intervals": between,
            "baseline": {
                "perplexity": math.exp(unigram),
                "loss": unigram,
                **trigram,
                **{f"trigram_perplexity:{kind}": math.exp(each) for kind, each in others.items()},
            },
            "baseline_name": "token frequencies",
            "key_metric": "perplexity",
        }
    return scored


def _spelled(batches: list[list[float]]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Returns bits for each byte, which compares across tokenizers, and the intervals of it and of perplexity, over
    batches, where there are two or more; nothing where tokens are not foretold one after the other.

    Args:
        batches: Nats, tokens and bytes of each.
    """
    from llmyard.metrics.bits import bits_each, bits_figure, bits_per_byte, perplexity_each, perplexity_figure
    from llmyard.metrics.significance import bootstrap

    kept = sorted(each for each in batches if each[1] and each[2])  # the order in which they came is chance
    if not kept:
        return {}, {}
    nats, tokens, sizes = ([each[at] for each in kept] for at in range(3))
    if len(kept) == 1:
        return {"bits_per_byte": bits_per_byte(nats, [int(size) for size in sizes])}, {}
    bits = bootstrap(bits_each(nats, [int(size) for size in sizes]), bits_figure)
    spread = bootstrap(perplexity_each(nats, [int(count) for count in tokens]), perplexity_figure)
    between = {"perplexity": [spread.low, spread.high], "bits_per_byte": [bits.low, bits.high]}
    return {"bits_per_byte": bits.value}, between


# Objectives whose tokens a model that counts n-grams can foretell: it knows what stands before.
COUNTABLE = ("causal_lm", "recurrent_lm", "span_corruption", "prefix_lm", "denoising")
COUNTED_TOKENS = 8_000_000  # some 500 MB while they are sorted
COUNTED_RUN = 512


class LossWorker:
    """Sums the figures over its share of a split's sequences, read as in training, and the losses of the training
    split's token frequencies and trigrams on the same tokens.
    """

    def __init__(
        self, checkpoint: Artifact, shards: Artifact, trained: Pretrain, batch_size: int, limit: int | None
    ) -> None:
        from llmyard.compression.loading import load
        from llmyard.tokens.tokenizer import FILE, Tokenizer
        from llmyard.tokens.word_starts import token_sizes

        self.model = load(checkpoint.local())
        self.tokenizer = Tokenizer.load(checkpoint.local(FILE))
        self.shards = shards
        self.trained, self.batch_size, self.limit = trained, batch_size, limit
        self.sizes = token_sizes(self.tokenizer)

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        import torch

        from llmyard.stages.streams import pretraining
        from llmyard.tokens.shards import ShardSet
        from llmyard.training.config import objectives_of

        counts = self._counts()
        shards = ShardSet.of(self.shards, unit["split"])
        objectives = objectives_of(self.trained.objective)
        counting = self._counting() if objectives[0].kind in COUNTABLE else None
        sums: dict[str, Any] = defaultdict(float)
        batches: list[list[float]] = []
        with torch.inference_mode():
            for number, objective in enumerate(objectives):
                stream = pretraining(self.trained, objective, shards, self.tokenizer, counts=counts)
                found = self._summed(stream, objective.kind, unit, counts, counting, [] if number else batches)
                # The first one's figures have no other name: most runs have one objective.
                suffix = f":{objective.kind}" if number else ""
                for name, value in found.items():
                    figure, count, _ = name.partition("/count")
                    sums[f"{figure}{suffix}{count}"] += value
        return {**sums, "batches": batches}

    def _summed(
        self,
        stream: Stream,
        kind: str,
        unit: dict[str, Any],
        counts: Any,
        counting: Any,
        batches: list[list[float]],
    ) -> dict[str, float]:
        """Returns the sums of an objective's figures over this worker's share, with what each is a mean over; adds
        nats, tokens and bytes of each batch of text.
        """
        import numpy as np

        from llmyard.training.objectives import IGNORE
        from llmyard.training.pretraining import RestoringObjective

        surprise = -np.log((counts + 1.0) / (counts + 1.0).sum())
        size = self.batch_size if unit["parts"] > 1 else self.trained.batch.micro_batch
        count = min(stream.order.samples_per_epoch, self.limit or stream.order.samples_per_epoch)
        sums: Counter[str] = Counter()

        def add(name: str, values: Any) -> None:
            sums.update({name: float(values.sum()), f"{name}/count": float(len(values))})

        for at in range(unit["part"] * size, count, unit["parts"] * size):
            batch = stream.batch([stream.order[sample] for sample in range(at, min(at + size, count))])
            measured = stream.objective.measures(self.model, batch)
            for name, (value, weight) in measured.items():
                sums.update({name: value, f"{name}/count": weight})
            labels = stream.objective.labels(batch)
            if isinstance(stream.objective, RestoringObjective):
                said = stream.objective.surprises(self.model, batch).numpy()
                batches.append([0.0, 0.0, 0.0])
                for row, text in self._texts(kind, batch):
                    self._add(batches, said[row][text.targets].sum(), text.ids[text.places])
                    add("text_loss", said[row][text.targets])
                    add("unigram", surprise[text.ids[text.places]])
                    add("trigram", counting.surprise(text.ids)[text.places])
                continue
            add("unigram", surprise[labels[labels != IGNORE].numpy()])
            if counting is not None:
                batches.append([0.0, 0.0, 0.0])
                self._add(batches, measured["loss"][0], labels[labels != IGNORE].numpy())
                for ids, row in zip(batch["ids"].numpy(), labels.numpy(), strict=True):
                    add("trigram", counting.surprise(ids)[1:][row != IGNORE])
        return dict(sums)

    def _add(self, batches: list[list[float]], nats: float, ids: Any) -> None:
        """Adds some tokens to the last batch."""
        for at, more in enumerate((float(nats), float(len(ids)), float(self._sizes_of(ids).sum()))):
            batches[-1][at] += more

    def _sizes_of(self, ids: Any) -> Any:
        """Returns the bytes of tokens; those behind the vocabulary, such as sentinels, have none."""
        return self.sizes[ids[ids < len(self.sizes)]]

    def _texts(self, kind: str, batch: Any) -> Iterator[tuple[int, WrittenText]]:
        """Yields each sample of a batch of an encoder-decoder as text."""
        from llmyard.tokens.written_text import written_text
        from llmyard.training.objectives import IGNORE

        rows = zip(batch["source"].numpy(), batch["mask"].numpy(), batch["targets"].numpy(), strict=True)
        for row, (source, mask, targets) in enumerate(rows):
            read = source[mask.astype(bool)]
            yield row, written_text(kind, read, targets[targets != IGNORE], self.tokenizer.vocab_size)

    def _counting(self) -> Any:
        """Returns a model that counts the training split's n-grams, of as many tokens as fit."""
        from llmyard.tokens.ngrams import NgramModel
        from llmyard.tokens.shards import ShardSet
        from llmyard.tokens.views import PackedView

        view = PackedView(ShardSet.of(self.shards, "train"), COUNTED_RUN)
        places = ((shard, row) for shard, rows in enumerate(view.rows) for row in range(rows))
        runs = (view(shard, row) for shard, row in islice(places, COUNTED_TOKENS // COUNTED_RUN))
        return NgramModel(runs, int(self.model.config.vocab_size))

    def _counts(self) -> Any:
        """Returns how often each token stands in the training split."""
        from llmyard.tokens.frequencies import token_counts
        from llmyard.tokens.shards import ShardSet

        return token_counts(ShardSet.of(self.shards, "train").shards, int(self.model.config.vocab_size))
