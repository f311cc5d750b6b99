"""In what numbers a model computes."""

from __future__ import annotations

import torch

# Below this width casting costs more on a CPU than bfloat16 saves: a 128-wide encoder-decoder took 2.8x as long.
MIN_BFLOAT16_WIDTH = 512


def compute_dtype(precision: str, device: torch.device, width: int) -> torch.dtype:
    """Returns the type to multiply in: bfloat16 where asked for, or by ``auto`` where it is faster.

    Args:
        precision: As in the config.
        device: Where to compute.
        width: The model's hidden size.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        has = torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if has and width >= MIN_BFLOAT16_WIDTH else torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)


class LossScale:
    """A factor that keeps float16 gradients from vanishing (Micikevicius et al. 2018); 1 for other types.

    Halved by each step whose gradients overflow, which is passed over; doubled after ``GROWTH_STEPS`` good ones.
    """

    GROWTH_STEPS = 2000

    def __init__(self, dtype: torch.dtype) -> None:
        self.value = 2.0**16 if dtype == torch.float16 else 1.0
        self._is_used = dtype == torch.float16
        self._good = 0

    def overflows(self, is_finite: bool) -> bool:
        """Takes note of a step; returns whether to pass it over because the factor was too large."""
        if not self._is_used:
            return False
        if is_finite:
            self._good += 1
            if self._good >= self.GROWTH_STEPS:
                self.value, self._good = self.value * 2, 0
            return False
        self._good = 0
        if self.value <= 1.0:  # it is not the factor
            return False
        self.value /= 2
        return True

    def state(self) -> list[float]:
        """Returns what a resumed run needs."""
        return [self.value, float(self._good)]

    def load(self, state: list[float]) -> None:
        """Takes over a state."""
        self.value, self._good = state[0], int(state[1])
