"""Linear layers with weights and activations of 8 bits.

Shapes: M tokens of all sequences, K input features, N output features.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmyard.compression.quantized_linear import QuantizedLinear

_LEVELS = 127
_ZERO = 128  # of unsigned bytes
_LEAST_STEP = 1e-30  # a token whose activations are all zero is divided by it
# From so many weights on they are packed for oneDNN's primitive, which takes 220 us for a token and 768 x 3,072 weights
# where torch._int_mm takes 315; but each call costs 20 us where that one's costs 3, and 192 x 192 take but 8.
_PACKED_FROM = 1_000_000


@cache
def has_int8_kernel() -> bool:
    """Returns whether this CPU sums products of bytes in 32 bits; AVX2 alone would saturate at 16."""
    able = torch.cpu.get_capabilities()
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and bool(able.get("avx512_vnni") or able.get("avx_vnni"))


class Int8Linear(QuantizedLinear):
    """Weights of 8 bits, symmetric, with a scale for each output feature; activations of 8 bits too, and the product of
    the two in integers, with 32-bit sums (Jacob et al. 2018, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference"; a scale for each token as in Yao et al. 2022, "ZeroQuant").

    What a token becomes does not depend on the others of its batch.

    Args:
        in_features: K.
        out_features: N.
        bias: (N) or None.
        static: The step between two activations is fixed, ``input_scale``, and so is what stands for zero,
            ``input_zero`` of 0 to 255; beyond their range activations are cut. Else each token has a step of its own:
            its largest activation becomes 127.
    """

    stored = "integers"
    integers: Tensor
    scale: Tensor
    input_scale: Tensor
    input_zero: Tensor

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None, static: bool = False) -> None:
        super().__init__(in_features, out_features, bias)
        self.static = static
        self.register_buffer("integers", self._blank())
        self.register_buffer("scale", torch.ones(out_features))
        if static:
            self.register_buffer("input_scale", torch.ones(()))
            self.register_buffer("input_zero", torch.full((), _ZERO, dtype=torch.uint8))

    def take(self, weight_NK: Tensor) -> None:
        """Takes the nearest integers to a layer's weights: those of an output feature from -127 to 127."""
        weight_NK = weight_NK.float()
        self.scale = (weight_NK.abs().amax(1) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        # The kernel takes the numbers as they lie in memory: those of a transposed matrix it would take for others.
        self.integers = (weight_NK / self.scale[:, None]).round().to(torch.int8).contiguous()

    def take_range(self, low: float, high: float) -> None:
        """Takes the range of the activations, of a static layer; it is widened to hold zero, which is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / 255, _LEAST_STEP)
        self.input_scale = torch.tensor(step)
        self.input_zero = torch.tensor(round(-low / step), dtype=torch.uint8)

    def weights(self) -> Tensor:
        """Returns the weights (N, K) that the integers stand for, in float32."""
        return self.saved().float() * self.scale.float()[:, None]

    def _blank(self) -> Tensor:
        return torch.zeros(self.out_features, self.in_features, dtype=torch.int8)

    def _moved(self) -> bool:
        return has_int8_kernel() and self.in_features * self.out_features >= _PACKED_FROM

    def _packed(self) -> tuple[Any, ...] | None:
        if self.integers.device.type != "cpu":
            return None
        if not has_int8_kernel():
            return (self.weights(),)  # made once, not in each call: as fast as floats, and as large in memory
        scale_N, bias_N = self.scale.float(), self._plain_bias()
        step = float(self.input_scale) if self.static else _LEAST_STEP
        zero = int(self.input_zero) if self.static else _ZERO
        if self._moved():
            zeros_N = torch.zeros(self.out_features, dtype=torch.int32)  # of the weights; they have to be given
            packed = torch.ops.onednn.qlinear_prepack(self.integers, None)
            return packed, scale_N, bias_N, zeros_N, zero, step, torch.tensor(zero + 0.5), torch.tensor(step)
        if self.static:
            scale_N = scale_N * step
            shift_N = scale_N * (_ZERO - zero) * self.integers.sum(1)  # what the activations' zero adds to the sums
            bias_N = shift_N if bias_N is None else shift_N + bias_N
        return self.integers.t(), scale_N, bias_N, step, torch.tensor(zero - _ZERO + 0.5), torch.tensor(step)

    def _unpacked(self, kernel: tuple[Any, ...]) -> Tensor:
        integers: Tensor = kernel[0].to_dense().t().contiguous()
        return integers

    def _product(self, x_MK: Tensor, kernel: tuple[Any, ...]) -> Tensor:
        if len(kernel) == 1:
            return self._rounded(x_MK, kernel[0])
        shift, least = kernel[-2:]
        step_M1 = None
        # Half a step is added (in shift) and what is behind the point cut off: that is the nearest integer.
        if self.static:
            read_MK = torch.add(shift, x_MK, alpha=1 / kernel[-3])
        else:
            # abs and amax are two passes, yet 14 times as fast as vector_norm's one, which is not vectorised.
            step_M1 = torch.add(least, x_MK.abs().amax(-1, keepdim=True), alpha=1 / _LEVELS)
            read_MK = torch.addcdiv(shift, x_MK, step_M1)
        if self._moved():
            return self._packed_product(read_MK, step_M1, kernel)
        weight_KN, scale_N, bias_N = kernel[:3]
        read_MK = read_MK.floor_()
        if self.static:
            read_MK = read_MK.clamp_(-_ZERO, _LEVELS)
        made_MN = torch._int_mm(read_MK.to(torch.int8), weight_KN).float()
        if step_M1 is not None:
            made_MN = made_MN.mul_(step_M1)
        return made_MN.mul_(scale_N) if bias_N is None else torch.addcmul(bias_N, made_MN, scale_N, out=made_MN)

    def _packed_product(self, read_MK: Tensor, step_M1: Tensor | None, kernel: tuple[Any, ...]) -> Tensor:
        """Returns (M, N) with activations from 0 to 255: of a single token oneDNN 3.12 multiplies signed ones in a
        reference loop, 7 ms for 256 x 1,024 weights instead of 0.03.
        """
        packed, scale_N, bias_N, zeros_N, zero, step = kernel[:6]
        if step_M1 is None:
            read_MK = read_MK.clamp_(0, 255)
        made_MN: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            read_MK.to(torch.uint8), step if self.static else 1.0, zero, packed, scale_N, zeros_N,
            bias_N if self.static else None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        if step_M1 is None:
            return made_MN
        return made_MN.mul_(step_M1) if bias_N is None else torch.addcmul(bias_N, made_MN, step_M1, out=made_MN)

    def _reference(self, x: Tensor) -> Tensor:
        return self._rounded(x, self.weights()).to(x.dtype)

    def _rounded(self, x: Tensor, weights_NK: Tensor) -> Tensor:
        """Returns in float32 what integers would give, their sums' last digits apart."""
        x_MK = x.float()
        with torch.no_grad():
            if self.static:
                step, zero = self.input_scale.float(), self.input_zero.float()
            else:
                step = x_MK.abs().amax(-1, keepdim=True) / _LEVELS + _LEAST_STEP
                zero = torch.tensor(float(_ZERO), device=x.device)
            read_MK = torch.floor(x_MK / step + (zero + 0.5)).clamp(0, 255)
            rounding_MK = (read_MK - zero) * step - x_MK
        # The gradient passes the rounding as if it were not there (Bengio et al. 2013, "straight through").
        return F.linear(x_MK + rounding_MK, weights_NK, self._plain_bias())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, static={self.static}"
