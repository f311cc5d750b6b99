"""Checkpoints of the hub whose matrices are packed as GPTQ or AWQ leave them, read without their packages.

GPTQ (Frantar et al. 2022; the layout is AutoGPTQ's): ``qweight`` (K / p, N) holds p = 32 / bits integers of successive
input features in each int32, the first in the lowest bits; ``qzeros`` (G, N / p) as many zeros of successive output
features, which version 1 stores less 1 and version 2 as they are; ``scales`` (G, N); ``g_idx`` (K) the group of each
input feature, which are in order unless the features were sorted by their activations ("act-order").

AWQ (Lin et al. 2023; the layout is AutoAWQ's "GEMM"): ``qweight`` (K, N / 8) and ``qzeros`` (G, N / 8) hold eight 4-bit
integers of output features in each int32, in the order 0, 2, 4, 6, 1, 3, 5, 7; groups are in order.

In both a weight is (its integer - the zero of its group) times the group's scale.

Shapes: N output features, K input features, G groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmyard.compression.int4 import GROUP_SIZES, Int4Linear
from llmyard.compression.quantizing import prepare
from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models import families

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FIELD = "quantization_config"
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which output feature each nibble holds, from the lowest on
_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_TRANSPOSED = ("gpt2",)  # families whose matrices are kept (K, N)
_READ = "read are GPTQ of 4 or 8 bits (gptq, gptq_v2) and AWQ of 4 bits (gemm)"


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint is packed.

    Attributes:
        method: ``gptq`` or ``awq``.
        bits: Of an integer.
        zero_shift: What has to be added to the zeros that are stored.
    """

    method: str
    bits: int
    zero_shift: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str = "the checkpoint") -> Scheme:
        """Returns the scheme that a ``config.json`` names.

        Raises:
            RequestError: It is none that is read here; what was found is said.
        """
        said: Mapping[str, Any] = config.get(FIELD) or {}
        method = str(said.get("quant_method") or said.get("method") or "").lower()
        bits = said.get("bits", said.get("w_bit", 4))
        form = str(said.get("checkpoint_format") or said.get("format") or said.get("version") or "").lower()
        found = f"{where} is packed by {method or 'an unknown method'}, {bits} bits, format {form or 'not said'}"
        remedy = f"{_READ}; take the model that was not packed, or one packed so"
        if method == "gptq" and not said.get("is_marlin_format") and form in ("", "gptq", "gptq_v2"):
            if bits not in (4, 8) or said.get("pack_dtype", "int32") not in ("int32", "torch.int32"):
                raise RequestError(found, remedy)
            if any("bits" in each for each in (said.get("dynamic") or {}).values() if isinstance(each, Mapping)):
                raise RequestError(f"{found}, with other bits in some layers", remedy)
            return cls("gptq", int(bits), 0 if form == "gptq_v2" else 1)
        if method == "awq" and form in ("", "gemm") and bits == 4 and said.get("zero_point", True):
            return cls("awq", 4)
        raise RequestError(found, remedy)


@dataclass(frozen=True)
class PackedLinear:
    """A packed layer, its integers read.

    Attributes:
        integers_KN: The weights' integers, from 0 on.
        zeros_GN: Of the groups, in integers.
        scales_GN: Of the groups, in float32.
        groups_K: The group of each input feature.
    """

    integers_KN: Tensor
    zeros_GN: Tensor
    scales_GN: Tensor
    groups_K: Tensor

    @classmethod
    def read(cls, scheme: Scheme, parts: Mapping[str, Tensor], name: str = "a layer") -> PackedLinear:
        """Returns the layer of its packed tensors.

        Args:
            scheme: How they are packed.
            parts: ``qweight``, ``qzeros``, ``scales`` and, of GPTQ, ``g_idx`` where features are out of order.
            name: Of the layer, for errors.

        Raises:
            CorruptArtifact: Their sizes do not fit each other.
        """
        try:
            scales_GN = parts["scales"].float()
            if scheme.method == "gptq":
                integers_KN = _unpacked(parts["qweight"].t(), scheme.bits).t()
                zeros_GN = _unpacked(parts["qzeros"], scheme.bits) + scheme.zero_shift
                zeros_GN &= 2**scheme.bits - 1  # a zero of 0 is stored as the largest number
            else:
                integers_KN, zeros_GN = (_unordered(_unpacked(parts[each], 4)) for each in ("qweight", "qzeros"))
            features, (groups, outputs) = len(integers_KN), scales_GN.shape
            groups_K = parts.get("g_idx")
            if groups_K is None:
                groups_K = torch.arange(features) // (features // groups)
        except (KeyError, ValueError, RuntimeError, ZeroDivisionError) as error:
            raise CorruptArtifact(f"{name} is not packed as its config says: {error!r}", _REMEDY) from None
        groups_K = groups_K.long()
        fits = integers_KN.shape[1] == zeros_GN.shape[1] == outputs and len(zeros_GN) == groups
        if not fits or len(groups_K) != features or not 0 <= int(groups_K.min()) <= int(groups_K.max()) < groups:
            raise CorruptArtifact(
                f"{name} is not packed as its config says: {tuple(integers_KN.shape)} integers, "
                f"{tuple(zeros_GN.shape)} zeros, {tuple(scales_GN.shape)} scales", _REMEDY,
            )  # fmt: skip
        return cls(integers_KN, zeros_GN, scales_GN, groups_K)

    def weights(self) -> Tensor:
        """Returns the weights (N, K) in float32."""
        shifted_KN = self.integers_KN.float() - self.zeros_GN.float()[self.groups_K]
        return (shifted_KN * self.scales_GN[self.groups_K]).t().contiguous()

    @property
    def group_size(self) -> int:
        """Input features of a group where all groups are alike and in order; 0 where they are not."""
        features, groups = len(self.groups_K), len(self.scales_GN)
        size = features // groups
        in_order = size * groups == features and bool((self.groups_K == torch.arange(features) // size).all())
        return size if in_order else 0

    def fill(self, layer: Int4Linear) -> None:
        """Gives the integers, as they are, to a layer of 4 bits with groups of the same size.

        Its scales and zeros are kept in bfloat16: each is off by a 256th of itself at most.
        """
        integers_NK = self.integers_KN.t().to(torch.uint8)
        layer.packed = (integers_NK[:, ::2] | (integers_NK[:, 1::2] << 4)).contiguous()
        zeros_GN = self.scales_GN * (8 - self.zeros_GN)
        layer.scales = torch.stack((self.scales_GN, zeros_GN), 2).bfloat16().contiguous()


_REMEDY = "download it again, or take the model that was not packed"


class Unpacked(Mapping[str, Tensor]):
    """The tensors of a packed checkpoint as a plain one has them; each is read and unpacked when it is asked for.

    Args:
        folder: Of the checkpoint.
        dtype: Of the tensors.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self._folder, self._dtype = folder, dtype
        config = _config(folder)
        self.scheme = Scheme.of(config, str(folder))
        self._transposed = config.get("model_type") in _TRANSPOSED

    def __getitem__(self, name: str) -> Tensor:
        """Returns a tensor; the weights of a layer (N, K)."""
        if name in self._packed:
            weights_NK = self.layer(name).weights().to(self._dtype)
            return weights_NK.t().contiguous() if self._transposed else weights_NK
        tensor = self._read(name)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def is_packed(self, name: str) -> bool:
        """Returns whether a tensor is the weights of a packed layer."""
        return name in self._packed

    def layer(self, name: str) -> PackedLinear:
        """Returns a packed layer, by the name of its weights."""
        prefix = name.removesuffix("weight")
        parts = {part: self._read(prefix + part) for part in _PARTS if prefix + part in self._files}
        return PackedLinear.read(self.scheme, parts, prefix.removesuffix("."))

    @cached_property
    def _files(self) -> dict[str, str]:
        """Returns which file holds each tensor that is stored."""
        from safetensors import safe_open

        index = self._folder / INDEX
        if index.exists():
            found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return found
        if not (self._folder / WEIGHTS).exists():
            raise RequestError(f"{self._folder} holds no {WEIGHTS}", "download the model's safetensors")
        with safe_open(self._folder / WEIGHTS, "pt") as file:
            return dict.fromkeys(file.keys(), WEIGHTS)

    @cached_property
    def _packed(self) -> frozenset[str]:
        found = frozenset(f"{name.removesuffix('qweight')}weight" for name in self._files if name.endswith(".qweight"))
        if not found:
            raise CorruptArtifact(
                f"{self._folder} has {FIELD} in its {CONFIG}, and no packed layer ({self.scheme.method})", _REMEDY
            )
        return found

    @cached_property
    def _names(self) -> tuple[str, ...]:
        whole = [name for name in self._files if name.rpartition(".")[2] not in _PARTS]
        return tuple(sorted([*whole, *self._packed]))

    def _read(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._folder / self._files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def is_packed(folder: str | Path) -> bool:
    """Returns whether a folder holds a checkpoint whose weights are packed, by whatever method."""
    return (Path(folder) / CONFIG).exists() and bool(_config(Path(folder)).get(FIELD))


def unpacked(folder: str | Path, dtype: torch.dtype = torch.float32) -> Unpacked:
    """Returns the tensors of a packed checkpoint by the names and in the shapes of a plain one, unpacked one by one.

    Args:
        folder: Of the checkpoint.
        dtype: Of the tensors.

    Raises:
        RequestError: It is not packed, or in a way that is not read here.
    """
    if not is_packed(folder):
        raise RequestError(f"{folder} is not packed: its {CONFIG} has no {FIELD}", "load it like any other checkpoint")
    return Unpacked(Path(folder), dtype)


@torch.no_grad()
def load(folder: str | Path, integers: bool = False) -> Any:
    """Returns the model of a packed checkpoint in evaluation mode.

    Args:
        folder: Of the checkpoint.
        integers: Keep the integers where a layer of 4 bits has groups of 32, 64 or 128 in order; the model is then a
            quantised one of llmyard's. Else, and elsewhere, weights become floating-point numbers.

    Raises:
        RequestError: It is not packed, or in a way that is not read here; it holds a model that needs code of its own.
        CorruptArtifact: Weights are missing, or fit no layer.
    """
    tensors = unpacked(folder)
    model: Any = families.unfilled(folder)
    if hasattr(model.config, FIELD):
        delattr(model.config, FIELD)
    kept = _kept(tensors) if integers else {}
    if kept:
        size = next(iter(kept.values()))
        layers = sorted(name.removesuffix(".weight") for name, each in kept.items() if each == size)
        prepare(model, {"kind": "int4", "group_size": size, "layers": layers})
    modules, own = dict(model.named_modules()), dict(model.state_dict(keep_vars=True))
    missing = {name for name in own if not isinstance(modules[name.rpartition(".")[0]], Int4Linear) or "bias" in name}
    for name in tensors:
        layer = modules.get(name.rpartition(".")[0])
        if isinstance(layer, Int4Linear) and name.endswith(".weight"):
            tensors.layer(name).fill(layer)
            continue
        if name not in own:
            if name.endswith("rotary_emb.inv_freq") or _is_buffer_of_old(name):
                continue
            raise CorruptArtifact(f"{folder} has weights {name}, which its config knows no place for", _REMEDY)
        tensor = tensors[name]
        if tensor.shape != own[name].shape:
            said = f"{name} has shape {tuple(tensor.shape)}, its config says {tuple(own[name].shape)}"
            raise CorruptArtifact(f"the weights in {folder} do not fit its config: {said}", _REMEDY)
        own[name].copy_(tensor)
        missing.discard(name)
    there = {own[name].data_ptr() for name in own if name not in missing}
    lacking = sorted(name for name in missing if own[name].data_ptr() not in there)  # of tied ones one is saved
    if lacking:
        raise CorruptArtifact(f"{folder} lacks weights: {', '.join(lacking[:3])}", _REMEDY)
    return model.eval()


def _kept(tensors: Unpacked) -> dict[str, int]:
    """Returns the layers whose integers can be kept, with the sizes of their groups."""
    if tensors.scheme.bits != 4:
        return {}
    sizes = {name: tensors.layer(name).group_size for name in tensors if tensors.is_packed(name)}
    return {name: size for name, size in sizes.items() if size in GROUP_SIZES}


def _is_buffer_of_old(name: str) -> bool:
    """Returns whether older versions of transformers saved this, and newer ones make it themselves."""
    return name.endswith((".attn.bias", ".attn.masked_bias"))


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return found


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Returns the integers (rows, columns times 32 / bits) of int32 words (rows, columns), the lowest bits first."""
    if packed.dtype != torch.int32:
        raise ValueError(f"packed in {packed.dtype}, not in int32")
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    integers: Tensor = (packed.contiguous()[..., None] >> shifts) & (2**bits - 1)
    return integers.flatten(1)


def _unordered(integers: Tensor) -> Tensor:
    """Returns integers that were packed in AWQ's order, in order."""
    places = torch.tensor(_AWQ_ORDER).argsort()
    return integers.reshape(len(integers), -1, len(_AWQ_ORDER))[..., places].flatten(1)
