"""The same training by transformers' Trainer, for `bench train`; it knows nothing of llmyard.

Started once a worker, as ``_plain_loop.py``; needs accelerate.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments


class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Pieces of a token stream."""

    def __init__(self, tokens: Any, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.tokens[at * self.length : (at + 1) * self.length].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


class Steps(TrainerCallback):
    """Writes each step's metrics and time."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "a", buffering=1)  # noqa: SIM115

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called every step."""
        self.file.write(json.dumps({"step": state.global_step, "time": time.time(), **(logs or {})}) + "\n")


def main(settings: dict[str, float], tokens_path: str, folder: Path) -> None:
    """Trains."""
    torch.set_num_threads(int(settings["threads"]))
    length = int(settings["length"])
    shape = GPT2Config(
        vocab_size=int(settings["vocabulary"]), n_positions=length, n_embd=int(settings["width"]),
        n_layer=int(settings["layers"]), n_head=int(settings["heads"]), resid_pdrop=settings["dropout"],
        embd_pdrop=settings["dropout"], attn_pdrop=settings["dropout"],
    )  # fmt: skip
    world = int(os.environ["WORLD_SIZE"])
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=int(settings["steps"]), logging_steps=1, report_to=[], use_cpu=True,
        per_device_train_batch_size=int(settings["batch"]) // world, learning_rate=1e-3, lr_scheduler_type="cosine",
        warmup_steps=20, weight_decay=0.01, max_grad_norm=1.0, save_steps=int(settings["save_every"]),
        save_total_limit=1, disable_tqdm=True, ddp_backend="gloo", optim="adamw_torch_fused",
    )  # fmt: skip
    tokens = np.load(tokens_path, mmap_mode="r")
    steps = [Steps(folder / "steps.jsonl")] if os.environ["RANK"] == "0" else []
    Trainer(GPT2LMHeadModel(shape), arguments, train_dataset=Windows(tokens, length), callbacks=steps).train()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
