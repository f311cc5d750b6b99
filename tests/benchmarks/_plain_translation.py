"""A plain torch translator, as one would write it by hand; it knows nothing of llmyard.

Reads ``train.jsonl`` and ``test.jsonl`` (source, target, language: of the target) in a folder, trains until the CPU
seconds given are spent, and prints BLEU and chrF of each direction as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import sacrebleu
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

PAD, END, SPECIAL = 0, 1, ["<pad>", "<end>", "<en>", "<zh>"]
WIDTH, HEADS, INNER, LAYERS, DROPOUT, LONGEST = 128, 4, 512, 2, 0.1, 64


class Translator(nn.Module):
    """Encoder-decoder with sinusoidal positions; one matrix embeds and predicts."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)
        rates = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10_000) / WIDTH))
        angles = torch.arange(2 * LONGEST)[:, None] * rates
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        self.dropout = nn.Dropout(DROPOUT)
        self.body = nn.Transformer(
            WIDTH, HEADS, LAYERS, LAYERS, INNER, DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Returns scaled vectors with their positions."""
        return self.dropout(self.embedding(ids) * WIDTH**0.5 + self.positions[: ids.shape[1]])  # type: ignore[index, no-any-return]

    def encode(self, source: Tensor) -> Tensor:
        """Returns what the encoder says."""
        return self.body.encoder(self.embed(source), src_key_padding_mask=source == PAD)  # type: ignore[no-any-return]

    def decode(self, memory: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Returns logits behind every target token."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        hidden = self.body.decoder(
            self.embed(target), memory, tgt_mask=mask, memory_key_padding_mask=source == PAD, tgt_is_causal=True
        )
        return F.linear(hidden, self.embedding.weight)


def main(folder: Path, budget: float) -> None:
    """Trains and translates."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    test = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=5000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((row["target"] for row in rows), trainer)
    sources, targets = encoded(tokenizer, rows)
    kept = [at for at in range(len(rows)) if len(sources[at]) <= LONGEST and len(targets[at]) <= LONGEST]
    model = Translator(tokenizer.get_vocab_size())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    dice, started, steps, last = np.random.default_rng(0), time.process_time(), 0, time.time()
    while (spent := (time.process_time() - started) / budget) < 1:
        drawn = dice.choice(kept, 64 * 50).tolist()  # batches of sentences of like length
        pool = sorted(drawn, key=lambda at: len(sources[at]) + len(targets[at]))
        for number in dice.permutation(50):
            batch = pool[number * 64 : number * 64 + 64]
            spent = (time.process_time() - started) / budget
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, (steps + 1) / 200) * max(0.0, 1 - spent)
            source = padded([sources[at] for at in batch])
            target = padded([[END, *targets[at]] for at in batch])
            logits = model.decode(model.encode(source), source, target[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if time.time() - last > 30:
                last = time.time()
                print(f"{spent:.0%} step {steps} loss {loss.item():.3f}", file=sys.stderr)
    said = translated(model.eval(), tokenizer, [tokens[:LONGEST] for tokens in encoded(tokenizer, test)[0]])
    found: dict[str, float] = {"steps": steps, "parameters": sum(each.numel() for each in model.parameters())}
    for language in ("en", "zh"):
        chosen = [at for at, row in enumerate(test) if row["language"] == language]
        hypotheses, references = [said[at] for at in chosen], [[test[at]["target"] for at in chosen]]
        bleu = sacrebleu.corpus_bleu(hypotheses, references, tokenize="zh" if language == "zh" else "13a")
        found |= {
            f"bleu_{language}": bleu.score,
            f"chrf_{language}": sacrebleu.corpus_chrf(hypotheses, references).score,
        }
    print(json.dumps(found))


def encoded(tokenizer: Tokenizer, rows: list[dict[str, str]]) -> tuple[list[list[int]], list[list[int]]]:
    """Returns ids of the sources, the wanted language first, and of the targets with their end."""
    language = {name: SPECIAL.index(f"<{name}>") for name in ("en", "zh")}
    sources = tokenizer.encode_batch([row["source"] for row in rows])
    targets = tokenizer.encode_batch([row["target"] for row in rows])
    return (
        [[language[row["language"]], *each.ids, END] for row, each in zip(rows, sources, strict=True)],
        [[*each.ids, END] for each in targets],
    )


def padded(rows: list[list[int]]) -> Tensor:
    """Returns ids in one tensor."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)


@torch.inference_mode()
def translated(model: Translator, tokenizer: Tokenizer, sources: list[list[int]]) -> list[str]:
    """Returns the likeliest next token after each other, for all sources in batches of like length."""
    said = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda at: len(sources[at]))
    for start in range(0, len(order), 128):
        batch = order[start : start + 128]
        source = padded([sources[at] for at in batch])
        memory, written = model.encode(source), torch.full((len(batch), 1), END)
        for _ in range(LONGEST):
            best = model.decode(memory, source, written)[:, -1].argmax(-1, keepdim=True)
            written = torch.cat([written, best], 1)
            if bool((written[:, 1:] == END).any(1).all()):
                break
        for at, ids in zip(batch, written[:, 1:].tolist(), strict=True):
            said[at] = tokenizer.decode(ids[: ids.index(END)] if END in ids else ids).strip()
    return said


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
