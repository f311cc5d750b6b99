"""Linear layers with weights of 4 bits.

Shapes: M tokens of all sequences, K input features, N output features, G groups of input features.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmyard.compression.quantized_linear import QuantizedLinear

GROUP_SIZES = (128, 64, 32)  # that the kernel takes
_LEAST_STEP = 1e-30  # of a group whose weights are all zero


@cache
def has_int4_kernel() -> bool:
    """Returns whether torch's product with 4-bit weights is vectorised on this CPU."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


class Int4Linear(QuantizedLinear):
    """Weights of 4 bits, two in a byte, with a scale and a zero for each group of input features; activations stay in
    floating point (as in Frantar et al. 2022, "GPTQ", here rounded to the nearest).

    A weight is (its integer - 8) times the scale plus the zero. The kernel computes in bfloat16, with float32 sums.

    Args:
        in_features: K, a multiple of the group size.
        out_features: N.
        bias: (N) or None.
        group_size: Input features that share a scale, one of :data:`GROUP_SIZES`.
    """

    stored = "packed"
    packed: Tensor
    scales: Tensor

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None, group_size: int) -> None:
        super().__init__(in_features, out_features, bias)
        self.group_size = group_size
        groups = in_features // group_size
        self.register_buffer("packed", self._blank())
        self.register_buffer("scales", torch.zeros(groups, out_features, 2, dtype=torch.bfloat16))

    def take(self, weight_NK: Tensor) -> None:
        """Takes the nearest of 16 values between the least and the largest weight of a group, or zero if that is beyond
        them: no weight is further from it than half a step.
        """
        grouped_NGH = weight_NK.float().reshape(self.out_features, -1, self.group_size)
        low_NG, high_NG = grouped_NGH.amin(2).clamp(max=0), grouped_NGH.amax(2).clamp(min=0)
        # Both are kept in bfloat16, with 8 bits: a step that was rounded down would not reach both ends.
        step_NG = ((high_NG - low_NG) / 15 * (1 + 2**-7)).clamp(min=_LEAST_STEP).bfloat16()
        zero_NG = ((high_NG + low_NG) / 2 + step_NG.float() / 2).bfloat16()
        self.scales = torch.stack((step_NG.t(), zero_NG.t()), 2).contiguous()
        steps = (grouped_NGH - zero_NG.float()[..., None]) / step_NG.float()[..., None]
        integers_NK = (steps.round() + 8).clamp(0, 15).to(torch.uint8).flatten(1)
        self.packed = _bytes(integers_NK)

    def weights(self) -> Tensor:
        """Returns the weights (N, K) that the integers stand for, in float32."""
        grouped_NGH = _nibbles(self.saved()).view(self.out_features, -1, self.group_size).float() - 8
        scales_NG2 = self.scales.float().transpose(0, 1)
        return torch.addcmul(scales_NG2[..., 1:], grouped_NGH, scales_NG2[..., :1]).flatten(1)

    def _blank(self) -> Tensor:
        return torch.zeros(self.out_features, self.in_features // 2, dtype=torch.uint8)

    def _packed(self) -> tuple[Any, ...] | None:
        if self.packed.device.type != "cpu" or not has_int4_kernel():
            return None
        missing = -self.out_features % 16  # the kernel wants a multiple
        integers_NK = F.pad(_nibbles(self.packed), (0, 0, 0, missing)).int()
        scales_GN2 = self.scales.bfloat16()
        if missing:
            scales_GN2 = F.pad(scales_GN2, (0, 0, 0, missing))
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers_NK, 1), scales_GN2, self._plain_bias()

    def _unpacked(self, kernel: tuple[Any, ...]) -> Tensor:
        # How the kernel orders the weights depends on the CPU; their product with the identity tells them all the same.
        packed, scales_GN2, _ = kernel
        plain_GN2 = torch.stack((torch.ones_like(scales_GN2[..., 0]), torch.full_like(scales_GN2[..., 1], 8)), 2)
        rows = torch.eye(self.in_features, dtype=torch.bfloat16)
        found_KN = self._multiplied(rows, packed, plain_GN2)[:, : self.out_features].to(torch.uint8)
        return _bytes(found_KN.t().contiguous())

    def _product(self, x_MK: Tensor, kernel: tuple[Any, ...]) -> Tensor:
        packed, scales_GN2, bias_N = kernel
        made_MN = self._multiplied(x_MK.bfloat16(), packed, scales_GN2)[:, : self.out_features].float()
        return made_MN if bias_N is None else made_MN.add_(bias_N)

    def _multiplied(self, x_MK: Tensor, packed: Tensor, scales_GN2: Tensor) -> Tensor:
        made_MN: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_MK, packed, self.group_size, scales_GN2)
        return made_MN

    def _reference(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weights(), self._plain_bias()).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group_size={self.group_size}"


def _bytes(integers_NK: Tensor) -> Tensor:
    """Returns (N, K / 2) bytes of integers from 0 to 15."""
    return integers_NK[:, ::2] | (integers_NK[:, 1::2] << 4)


def _nibbles(packed: Tensor) -> Tensor:
    """Returns (N, K) integers from 0 to 15 of (N, K / 2) bytes."""
    return torch.stack((packed & 15, packed >> 4), 2).flatten(1)
