"""The matrices of a frozen base in 4 bits, for QLoRA (Dettmers et al. 2023); by bitsandbytes, the extra ``qlora``."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from llmyard.core.errors import RequestError

_LAYER = re.compile(r"\.(\d+)\.")


def quantize(model: Any) -> None:
    """Replaces the matrices inside a model's layers by 4-bit ones (NF4, its scales quantised again), in place.

    What stands outside the layers, all vectors, and what transformers never rounds, stay as they are. A matrix of n
    weights takes about 0.52 n bytes; what it gives is computed in the type of its input.

    Raises:
        RequestError: bitsandbytes is not installed, or the model has no such matrices (GPT-2 has other ones).
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError:
        raise RequestError("bitsandbytes is not installed", 'pip install "llmyard[qlora]"') from None
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())  # of T5 one that overflows in fewer bits
    found = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and _LAYER.search(f".{name}.") and name.rpartition(".")[2] not in kept
    }
    if not found:
        kind = type(model).__name__
        raise RequestError(f"{kind} has no matrices that can be kept in 4 bits", "leave `method.quantize` out")
    for name, old in found.items():
        new = Linear4bit(
            old.in_features, old.out_features, old.bias is not None, compress_statistics=True, quant_type="nf4"
        )
        new.weight = Params4bit(old.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4")
        if old.bias is not None:
            new.bias = old.bias
        # On some CPUs it would repack its matrix in evaluation, compute in bfloat16, and refuse widths not of 32s.
        new.support_avx512bf16_for_cpu = False
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], new.to(old.weight.device))
    model.is_loaded_in_4bit = True  # peft looks for it
