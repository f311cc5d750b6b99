"""Trained decoders of Llama's kind as GGUF files, which llama.cpp and the programs built on it read.

Names of tensors and keys are those of llama.cpp's own converter, through the ``gguf`` package. Of Llama and Mistral the
rows of queries and keys are ordered as llama.cpp rotates them: neighbouring ones together, where transformers rotates
those half a head apart.

Shapes: N output features, K input features.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from llmyard.compression.exportable import Fault, config_of, load_whole, unfit
from llmyard.compression.gguf_vocabulary import vocabulary
from llmyard.compression.gguf_vocabulary import why_not as why_not_tokenizer
from llmyard.compression.loading import GGUF
from llmyard.core.errors import RequestError
from llmyard.tokens.tokenizer import FILE, Tokenizer

Weights = Literal["float32", "float16", "q8_0", "q4_0"]

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # and their names in llama.cpp
ROTARY = ("default", "linear", "llama3")
_BLOCK = 32  # weights that share a scale
_FORMATS = {"float32": "F32", "float16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_FILE_TYPES = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        architecture: As llama.cpp calls it.
        weights: What its matrices are saved in.
        bytes: Of the file.
        kept: Names of matrices that are saved with more bits, as their rows are no multiple of 32.
        differs: What becomes other tokens in llama.cpp than here; "" if nothing does.
    """

    architecture: str
    weights: str
    bytes: int
    kept: tuple[str, ...]
    differs: str


def why_not(model: Any, tokenizer: Tokenizer | None = None) -> str:
    """Returns why a model cannot be exported, and what can be done; "" if it can.

    Args:
        model: A model, its config, or the content of its ``config.json``.
        tokenizer: Of the model; None does not look at it.
    """
    fault = _fault(model)
    if not fault and tokenizer is not None and (why := why_not_tokenizer(tokenizer)):
        fault = why, "train a tokenizer of kind bpe or unigram, or export to ctranslate2"
    return "; ".join(fault)


def export(
    source: str | Path, target: str | Path, weights: Weights = "float16", name: str = "model",
    chat_template: str | None = None,
) -> Exported:  # fmt: skip
    """Writes a checkpoint as ``model.gguf``, beside its ``config.json`` and ``tokenizer.json``.

    Norms and biases stay in float32. With ``q4_0`` embedding and output layer are saved in ``q8_0``: they suffer most.

    Args:
        source: The checkpoint, with its ``tokenizer.json``.
        target: Folder to write to; made if it is missing.
        weights: What matrices are saved in.
        name: Of the model, for those who read the file.
        chat_template: Jinja; None takes the one that lies beside the checkpoint, if there is one.

    Raises:
        RequestError: The model cannot be exported, see :func:`why_not`; its tokenizer has more ids than it; there are
            no such weights; the package ``gguf`` is not installed.
        CorruptArtifact: Weights are missing.
    """
    if weights not in get_args(Weights):
        raise RequestError(f"there are no weights {weights!r}", f"known: {', '.join(get_args(Weights))}")
    try:
        import gguf
    except ImportError:
        raise RequestError("the package gguf is not installed", "pip install 'llmyard[export]'") from None
    source, target = Path(source), Path(target)
    model, tokenizer = load_whole(source, _fault)
    config, architecture = model.config, FAMILIES[model.config.model_type]
    said = vocabulary(tokenizer, int(config.vocab_size))
    target.mkdir(parents=True, exist_ok=True)
    file = target / GGUF
    writer = gguf.GGUFWriter(file, architecture)
    _write_shape(writer, config, weights, name)
    _write_vocabulary(writer, said, config, tokenizer)
    template = _template(source) if chat_template is None else chat_template
    if template is not None:
        writer.add_chat_template(template)
    kept = _write_weights(writer, model, weights)
    shutil.copyfile(source / FILE, target / FILE)
    written = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if written["model_type"] == "mistral":  # without a sliding window it is a Llama, and the file says so
        written |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (target / "config.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
    return Exported(architecture, weights, file.stat().st_size, kept, said.differs)


def _fault(model: Any) -> Fault:
    if fault := unfit(model):
        return fault
    config = config_of(model)
    family = getattr(config, "model_type", "")
    if family not in FAMILIES:
        return f"it is of family {family!r}, not of Llama's kind", f"known: {', '.join(FAMILIES)}; or take ctranslate2"
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind not in ROTARY or (kind == "llama3" and family != "llama"):
        return f"its rotary positions are of kind {kind!r}", f"known: {', '.join(ROTARY)}, the last of a llama"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"its activation is {config.hidden_act!r}, llama.cpp computes silu", "leave the model as it is"
    slides = family == "mistral" or getattr(config, "use_sliding_window", False)
    window = getattr(config, "sliding_window", None)
    if slides and window is not None and window < getattr(config, "max_position_embeddings", 0):
        return f"llama.cpp has no sliding window ({window} tokens) in this family", "leave the model as it is"
    return ()


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _write_shape(writer: Any, config: Any, weights: str, name: str) -> None:
    import gguf

    rotary, head_size = config.rope_parameters, _head_size(config)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[weights]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rotary["rope_theta"])
    writer.add_rope_dimension_count(head_size)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    if rotary["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rotary["factor"])


def _write_vocabulary(writer: Any, said: Any, config: Any, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model(said.model)
    writer.add_tokenizer_pre(said.pre)
    writer.add_token_list(said.tokens)
    writer.add_token_types(said.kinds)
    if said.merges:
        writer.add_token_merges(said.merges)
    if said.scores:
        writer.add_token_scores(said.scores)
        writer.add_add_space_prefix(False)
        writer.add_remove_extra_whitespaces(False)
    if said.unknown is not None:
        writer.add_unk_token_id(said.unknown)
    first = config.bos_token_id
    writer.add_bos_token_id(first if isinstance(first, int) and first < len(said.tokens) else tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(False)  # a prompt here begins with what it says itself
    writer.add_add_eos_token(False)


def _write_weights(writer: Any, model: Any, weights: str) -> tuple[str, ...]:
    """Writes the file, one tensor after the other; returns the names of those with more bits than asked for."""
    import gguf

    kept = []
    plans = []
    for name, tensor in _tensors(model):
        form, fits = _form(name, tensor.shape, weights)
        if not fits:
            kept.append(name)
        kind = gguf.GGMLQuantizationType[form]
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind) if form.startswith("Q") else tuple(tensor.shape)
        dtype = {"F32": np.float32, "F16": np.float16}.get(form, np.uint8)
        writer.add_tensor_info(name, shape, np.dtype(dtype), int(np.prod(shape)) * np.dtype(dtype).itemsize, kind)
        plans.append(kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (_, tensor), kind in zip(_tensors(model), plans, strict=True):
        writer.write_tensor_data(gguf.quantize(tensor.float().numpy(), kind))
    writer.close()
    return tuple(kept)


def _form(name: str, shape: torch.Size, weights: str) -> tuple[str, bool]:
    """Returns what a tensor is saved in, and whether that is what was asked for."""
    if len(shape) < 2:
        return "F32", True
    form = _FORMATS[weights]
    if form.startswith("Q") and shape[-1] % _BLOCK:
        return "F16", False
    if form == "Q4_0" and name in ("token_embd.weight", "output.weight"):
        return "Q8_0", True
    return form, True


@torch.no_grad()
def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the model's weights by llama.cpp's names and in its order; a tied output layer once, as embedding."""
    import gguf

    config = model.config
    architecture = next(each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == FAMILIES[config.model_type])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    rotated = {".q_proj.": heads, ".k_proj.": shared} if FAMILIES[config.model_type] == "llama" else {}
    if config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", _frequency_factors(model)
    for name, tensor in model.state_dict().items():
        if tied and name.startswith("lm_head."):
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise RequestError(f"llama.cpp has no place for the weights {name}", "leave the model as it is")
        count = next((count for part, count in rotated.items() if part in name), 0)
        yield found, permuted(tensor, count) if count else tensor


def permuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Returns the rows (N, ...) of queries or keys as llama.cpp rotates them: of each head the first, the one half a
    head behind it, the second, and so on.

    Args:
        tensor: Weights (N, K) or biases (N).
        heads: That N is made of.
    """
    shape = (heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return tensor.reshape(shape).transpose(1, 2).reshape(tensor.shape)


def _frequency_factors(model: Any) -> torch.Tensor:
    """Returns by what each rotary frequency is divided."""
    size = _head_size(model.config)
    plain = model.config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2).float() / size)
    factors: torch.Tensor = plain / model.model.rotary_emb.inv_freq.float()
    return factors


def _template(folder: Path) -> str | None:
    """Returns the chat template that lies beside a checkpoint; None where there is none."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not (folder / "tokenizer_config.json").exists():
        return None
    found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((each.get("template") for each in found if each.get("name") == "default"), None)
    return found if isinstance(found, str) and found.strip() else None
