"""A plain torch loop of what `bench train` measures, as one would write it by hand; it knows nothing of llmyard.

Started once a worker with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment. Metrics of every step go to
``steps.jsonl``, a checkpoint every ``save_every`` steps to ``checkpoint.pt``.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, GPT2LMHeadModel


def main(settings: dict[str, float], tokens_path: str, folder: Path) -> None:
    """Trains."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(int(settings["threads"]))
    if world > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    length, batch = int(settings["length"]), int(settings["batch"]) // world
    tokens = np.load(tokens_path, mmap_mode="r")
    shape = GPT2Config(
        vocab_size=int(settings["vocabulary"]), n_positions=length, n_embd=int(settings["width"]),
        n_layer=int(settings["layers"]), n_head=int(settings["heads"]), resid_pdrop=settings["dropout"],
        embd_pdrop=settings["dropout"], attn_pdrop=settings["dropout"],
    )  # fmt: skip
    whole = GPT2LMHeadModel(shape)
    whole.train()
    model = DistributedDataParallel(whole) if world > 1 else whole
    matrices = [each for each in whole.parameters() if each.dim() >= 2]
    vectors = [each for each in whole.parameters() if each.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
    order = np.random.default_rng(0).permutation((len(tokens) - 1) // length)
    steps, place = int(settings["steps"]), 0
    log = open(folder / "steps.jsonl", "a", buffering=1) if rank == 0 else None  # noqa: SIM115
    for step in range(steps):
        rate = 1e-3 * min(1.0, (step + 1) / 20) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        mine = [order[(place + number * world + rank) % len(order)] for number in range(batch)]
        place += batch * world
        rows = np.stack([tokens[at * length : (at + 1) * length + 1] for at in mine]).astype(np.int64)
        ids = torch.from_numpy(rows)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.detach().clone()
        if world > 1:
            dist.all_reduce(mean)
            mean /= world
        if log is not None:
            line = {"step": step + 1, "time": time.time(), "loss": float(mean), "norm": float(norm), "rate": rate}
            log.write(json.dumps(line) + "\n")
            if (step + 1) % int(settings["save_every"]) == 0:
                torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, folder / "checkpoint.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
