"""How fast a run is, and what share of the device's peak that makes."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from llmyard.training.layout import Layout
    from llmyard.training.streams import MicroBatch

WINDOW = 50
"""Steps that a rate is the mean of."""

# Dense bfloat16 operations a second, from the vendors' data sheets (without sparsity). The more words first.
PEAKS = {
    "H100 PCIe": 756e12, "H200": 989e12, "H100 NVL": 835e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A40": 150e12, "A10": 125e12, "A30": 165e12, "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}  # fmt: skip


def peak_of(device: torch.device) -> float | None:
    """Returns the operations a second that a device can do in bfloat16; None where that is not known."""
    if device.type != "cuda":
        return None
    words = set(re.split(r"[\s-]+", torch.cuda.get_device_name(device)))
    return next((peak for name, peak in PEAKS.items() if words.issuperset(name.split())), None)


class Meter:
    """Rates over the last steps.

    Args:
        flops_a_token: Operations of the forward and backward pass for one token; 0 where that is not known.
        peak: Operations a second of all workers' devices together; None where that is not known.
    """

    def __init__(self, flops_a_token: float = 0.0, peak: float | None = None) -> None:
        self._flops, self._peak = flops_a_token, peak
        self._steps: deque[tuple[float, float, float, float]] = deque(maxlen=WINDOW)
        self.begin()

    def begin(self) -> None:
        """A step begins; what lies between the one before and this is not counted."""
        self._began = time.perf_counter()

    def step(self, targets: float, tokens: float, waited: float) -> None:
        """Takes note of a step that has ended.

        Args:
            targets: What its loss is the mean of.
            tokens: That all workers read.
            waited: Seconds that this worker waited for its data.
        """
        now = time.perf_counter()
        self._steps.append((now - self._began, targets, tokens, waited))
        self._began = now

    def rates(self) -> dict[str, float]:
        """Returns ``tokens_per_second``, ``targets_per_second``, ``data_wait_share`` and, where known, ``mfu``.

        MFU is the share of the devices' peak that the model's own operations make, those of recomputed activations not
        counted (Chowdhery et al. 2022, PaLM, appendix B).
        """
        seconds, targets, tokens, waited = (max(sum(each), 1e-9) for each in zip(*self._steps, strict=True))
        found = {
            "tokens_per_second": tokens / seconds,
            "targets_per_second": targets / seconds,
            "data_wait_share": waited / seconds,
        }
        if self._peak and self._flops:
            found["mfu"] = tokens * self._flops / seconds / self._peak
        return found


@torch.no_grad()
def flops_a_token(layout: Layout, batch: MicroBatch) -> float:
    """Returns the operations of the forward and backward pass for one token, counted in a forward pass.

    The backward pass takes twice the forward pass's. What the objective remembers is forgotten: for the start of a run,
    on all workers that share the model.
    """
    from torch.distributed.fsdp import FSDPModule
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    was_training = layout.model.training
    layout.model.eval()
    tensors = {name: each.to(layout.device) for name, each in batch.batch.items()}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter, torch.compiler.set_stance("force_eager"):
        batch.objective.measures(layout.model, tensors)
    layout.model.train(was_training)
    for module in layout.model.modules():
        if isinstance(module, FSDPModule):  # a forward pass alone leaves the outermost one's weights whole
            module.reshard()
    if batch.objective.remembers:
        batch.objective.load({})
    return 3.0 * float(counter.get_total_flops()) / max(1, batch.tokens)
