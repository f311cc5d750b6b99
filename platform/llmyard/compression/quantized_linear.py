"""Linear layers with integer weights.

Each holds its weights once: as they are saved, or as the CPU's kernel wants them, into which they are brought when the
layer is first used, and from which they are brought back when it is saved, copied or moved. Where there is no such
kernel (another device, a CPU without VNNI) the same numbers are computed in floating point, slowly; so they are too
where a gradient with regard to the input is wanted.

Shapes: M tokens of all sequences, K input features, N output features.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

FIELD = "llmyard_quantization"  # of a quantised model's config: which layers are of which kind

_packing = threading.Lock()


class QuantizedLinear(nn.Module):
    """A linear layer with integer weights; what they are, its subclasses say.

    Args:
        in_features: K.
        out_features: N.
        bias: (N), kept as it is, or None.
    """

    stored: str  # name of the buffer with the integers; never "weight", as which they could be loaded for floats
    weight = None  # T5 asks for the type of a layer's weight and would bring its input into the same
    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("bias", bias)
        self._kernel: tuple[Any, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., N) of (..., K)."""
        kernel = self._kernel or self._pack()
        if kernel is None or (x.requires_grad and torch.is_grad_enabled()):
            return self._reference(x)
        flat_MK = x.reshape(-1, self.in_features)
        return self._product(flat_MK.float(), kernel).to(x.dtype).view(*x.shape[:-1], self.out_features)

    def saved(self) -> Tensor:
        """Returns the weights as they are saved."""
        there, kernel = self.get_buffer(self.stored), self._kernel
        return self._unpacked(kernel) if kernel is not None and not there.numel() else there

    def weights(self) -> Tensor:
        """Returns the weights (N, K) that the integers stand for, in float32."""
        raise NotImplementedError

    def held(self) -> list[Tensor]:
        """Returns all tensors that the layer keeps in memory; a packed one tells its size, but no address."""
        kernel = [each for each in self._kernel or () if isinstance(each, Tensor)]
        return [*self.parameters(), *self.buffers(), *kernel]

    def _reference(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _product(self, x_MK: Tensor, kernel: tuple[Any, ...]) -> Tensor:
        raise NotImplementedError

    def _packed(self) -> tuple[Any, ...] | None:
        """Returns what :meth:`_product` needs; None where there is no kernel."""
        raise NotImplementedError

    def _moved(self) -> bool:
        """Returns whether the weights are in what :meth:`_packed` returns."""
        return True

    def _unpacked(self, kernel: tuple[Any, ...]) -> Tensor:
        """Returns the integers of what :meth:`_packed` returned."""
        raise NotImplementedError

    def _blank(self) -> Tensor:
        """Returns a tensor of the shape in which the integers are saved."""
        raise NotImplementedError

    def _plain_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.detach().float()

    def _pack(self) -> tuple[Any, ...] | None:
        # A tensor made under inference mode could not be changed outside of it.
        with _packing, torch.inference_mode(False), torch.no_grad():
            if self._kernel is None:
                kernel = self._packed()
                if kernel is not None:
                    self._kernel = kernel
                    if self._moved():
                        setattr(self, self.stored, self.get_buffer(self.stored).new_empty(0))
            return self._kernel

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        with _packing, torch.inference_mode(False), torch.no_grad():
            setattr(self, self.stored, self.saved())  # another device may have no kernel
            self._kernel = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + self.stored] = self.saved()

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        if self._kernel is not None:
            setattr(self, self.stored, self._blank())
            self._kernel = None
        super()._load_from_state_dict(*arguments, **named)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy is made of: packed tensors can be neither copied nor pickled."""
        buffers = {**self._buffers, self.stored: self.saved()}
        return {**self.__dict__, "_buffers": buffers, "_kernel": None}

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def is_quantized(model: nn.Module) -> bool:
    """Returns whether a model has layers with integer weights."""
    return any(isinstance(each, QuantizedLinear) for each in model.modules())
