"""Trained checkpoints as models of CTranslate2, for fast answers on CPUs.

A model's folder holds CTranslate2's ``model.bin``, its vocabulary and ``config.json``, and the checkpoint's
``tokenizer.json``; of a model that labels ``heads.safetensors`` too. The vocabulary's places are the tokenizer's ids;
ids that stand for no text have names of their own. Under ``llmyard``, ``config.json`` says what llmyard's engine has to
know; other programs pass over it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from llmyard.compression.ctranslate2_specs import ACTIVATIONS, FAMILIES, ROTARY, spec_of, table_length, unused_positions
from llmyard.compression.exportable import Fault, check_size, config_of, id_of, load_whole, token_name, unfit
from llmyard.core.errors import CorruptArtifact, RequestError
from llmyard.models.text_encoder import TextEncoder
from llmyard.tokens.tokenizer import END, FILE, PAD, Tokenizer

Weights = Literal["float32", "float16", "int16", "int8", "int8_float32"]
FIELD = "llmyard"  # of config.json: what the engine reads
HEADS = "heads.safetensors"
_CHECKED = 12  # tokens of a text that the exported model is checked with
# How far an exported model may be from the trained one, as a share; a weight in a wrong place is farther.
_MOST_DEVIATION = {"float32": 1e-3, "float16": 2e-2, "int16": 5e-2, "int8": 0.3, "int8_float32": 0.3}
_LLAMAS = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        family: Of the model.
        form: ``decoder``, ``encoder_decoder``, ``labeller`` or ``encoder``.
        weights: What its matrices are saved in.
        bytes: Of all files.
        deviation: How far its answers to a short text are from the trained model's, by its weights alone: computed in
            float32, the length of the difference of all logits (of an encoder, hidden states), as a share of theirs.
    """

    family: str
    form: str
    weights: str
    bytes: int
    deviation: float


def why_not(model: Any) -> str:
    """Returns why a model cannot be exported, and what can be done; "" if it can.

    Args:
        model: A model, its config, or the content of its ``config.json``.
    """
    return "; ".join(_fault(model))


def export(source: str | Path, target: str | Path, weights: Weights = "float32") -> Exported:
    """Writes a checkpoint as a CTranslate2 model, and checks that it says what the checkpoint does.

    Args:
        source: The checkpoint, with its ``tokenizer.json``.
        target: Folder to write to; made if it is missing.
        weights: What matrices are saved in: ``int8`` has a scale for each of their rows, ``int16`` one for all.

    Raises:
        RequestError: The model cannot be exported, see :func:`why_not`; its tokenizer has more ids than it; there are
            no such weights; CTranslate2 is not installed.
        CorruptArtifact: Weights are missing, or the result does not say what the checkpoint does.
    """
    if weights not in get_args(Weights):
        raise RequestError(f"there are no weights {weights!r}", f"known: {', '.join(get_args(Weights))}")
    try:
        import ctranslate2  # noqa: F401 - said now, not when the model is loaded
    except ImportError:
        raise RequestError("CTranslate2 is not installed", "pip install 'llmyard[export]'") from None
    source, target = Path(source), Path(target)
    model, tokenizer = load_whole(source, _fault)
    model = model.float()
    names = vocabulary(tokenizer, int(model.config.vocab_size))
    described = describe(model, tokenizer.pad_id)
    ids, wanted = _asked(model, described)
    target.mkdir(parents=True, exist_ok=True)
    if isinstance(model, TextEncoder):
        _save_heads(model, target)
    _save(model, names, described, weights, target)
    shutil.copyfile(source / FILE, target / FILE)
    deviation = float((_answers(target, described["form"], names, ids) - wanted).norm() / wanted.norm())
    if not deviation <= _MOST_DEVIATION[weights]:
        raise CorruptArtifact(
            f"{target} in {weights} deviates by {deviation:.2g} from {source}, more than {_MOST_DEVIATION[weights]}",
            "take weights with more bits; in float32 CTranslate2 computes something else: leave the model as it is",
        )
    size = sum(each.stat().st_size for each in target.iterdir() if each.is_file())
    return Exported(described["model_type"], described["form"], weights, size, deviation)


def vocabulary(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Returns the name of each id of a model: its token's, or one that no token has.

    Args:
        tokenizer: Of the model.
        rows: Ids of the model; some may be none of the tokenizer's (T5's sentinels).

    Raises:
        RequestError: The tokenizer has more ids.
    """
    check_size(tokenizer, rows)
    names = []
    for id_ in range(rows):
        name = token_name(tokenizer, id_)
        if name is None:
            name = f"<extra_id_{id_}>"
            while id_of(tokenizer, name) is not None:
                name += "_"
        names.append(name)
    return names


def describe(model: Any, pad_id: int) -> dict[str, Any]:
    """Returns what llmyard's engine has to know of a model: the fields of its ``Description``."""
    config, labels = model.config, isinstance(model, TextEncoder)
    family = config.model_type
    found = {"model_type": family, "vocab_size": int(config.vocab_size), "pad_id": pad_id}
    if family == "llmyard_transformer":
        length = table_length(config)
        total = length + 1 if config.positions == "learned" else None
        return {**found, "form": "encoder_decoder", "positions": length, "total": total, "answer_positions": length}
    if labels:
        own = {key: value for key, value in config.to_diff_dict().items() if key not in ("architectures", "dtype")}
        length = config.max_tokens
        return {**found, "form": "labeller", "positions": length, "total": length + 1, "labeller": own}
    form = "encoder_decoder" if config.is_encoder_decoder else "decoder" if model.can_generate() else "encoder"
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and form == "encoder":
        positions -= unused_positions(config)
    return {**found, "form": form, "positions": positions, "total": None if positions is None else positions + 1}


def _fault(model: Any) -> Fault:
    if fault := unfit(model):
        return fault
    config = config_of(model)
    family = getattr(config, "model_type", "")
    if family == "llmyard_transformer_xl":
        return "a Transformer-XL's memory has no counterpart in CTranslate2", "train a gpt2 or a llama"
    if family not in FAMILIES:
        return f"it is of family {family!r}, which is not exported", f"known: {', '.join(FAMILIES)}"
    what = _missing(family, config)
    return (f"CTranslate2 has no {what}", "leave the model as it is") if what else ()


def _missing(family: str, config: Any) -> str:
    """Returns what of a config CTranslate2 lacks; "" if nothing. What a ``config.json`` leaves out is as usual."""

    def of(name: str, usual: Any = None) -> Any:
        found = getattr(config, name, None)
        return usual if found is None else found

    named = [of(each) for each in ("activation_function", "hidden_act", "dense_act_fn")]
    if unknown := [each for each in named if each is not None and each not in ACTIVATIONS]:
        return f"activation {unknown[0]!r}"
    if family == "gpt2" and (
        not of("scale_attn_weights", True) or of("scale_attn_by_inverse_layer_idx") or of("add_cross_attention")
    ):
        return "attention that is scaled otherwise, or that reads another text, in a GPT-2"
    if family in _LLAMAS:
        rotary = of("rope_parameters", of("rope_scaling", {}))
        kind = rotary.get("rope_type", rotary.get("type", "default"))
        if kind not in ROTARY:
            return f"rotary positions of kind {kind!r} (known are {', '.join(ROTARY)})"
        if rotary.get("partial_rotary_factor", 1) != 1:
            return "rotary positions of a part of a head"
        slides = family == "mistral" or of("use_sliding_window", False)
        if slides and of("sliding_window", 10**9) < of("max_position_embeddings", 0):
            return f"exact counterpart of a sliding window of {config.sliding_window} tokens"
    if family in ("bart", "marian"):
        if of("encoder_attention_heads") != of("decoder_attention_heads"):
            return "different numbers of heads in encoder and decoder"
        if not of("share_encoder_decoder_embeddings", True):
            return "way to begin a target with the source's last token where their vocabularies differ"
    if family in ("bert", "roberta", "xlm-roberta"):
        if of("position_embedding_type", "absolute") != "absolute":
            return f"{config.position_embedding_type} positions in a BERT"
        if of("is_decoder"):
            return "BERT that writes"
    return ""


def _save(model: Any, names: list[str], described: dict[str, Any], weights: Weights, target: Path) -> None:
    """Writes the model; its layers may be gone afterwards."""
    with torch.no_grad():
        spec = spec_of(model)
        spec.config.bos_token = spec.config.eos_token = END
        spec.config.unk_token = PAD  # must be some token; none is unknown
        if described["form"] == "encoder_decoder":
            spec.config.decoder_start_token = None  # the prompt's last token, which the engine gives
            spec.register_source_vocabulary(names)
            spec.register_target_vocabulary(names)
        else:
            spec.register_vocabulary(names)
        spec.config.add_attribute("model_type", described["model_type"])
        spec.config.add_attribute(FIELD, described)
        spec.validate()
        spec.optimize(weights)
        spec.save(str(target))


def _save_heads(model: TextEncoder, target: Path) -> None:
    from safetensors.torch import save_file

    heads = {name: each.contiguous() for name, each in model.state_dict().items() if not name.startswith("bert.")}
    save_file(heads, target / HEADS)


@torch.inference_mode()
def _asked(model: Any, described: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns a text (1, T), and what the trained model says of it (T, classes)."""
    length = min(_CHECKED, described["positions"] or _CHECKED)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(described["vocab_size"], (1, length), generator=generator)
    ids[ids == described["pad_id"]] = (described["pad_id"] + 1) % described["vocab_size"]
    if described["form"] == "encoder_decoder":
        return ids, model(input_ids=ids, decoder_input_ids=ids).logits[0]
    if described["form"] == "decoder":
        return ids, model(input_ids=ids).logits[0]
    if isinstance(model, TextEncoder):
        return ids, model.hidden(ids)[0]
    return ids, getattr(model, model.base_model_prefix)(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


def _answers(folder: Path, form: str, names: list[str], ids: Tensor) -> Tensor:
    """Returns what the exported model says of a text."""
    import ctranslate2
    import numpy as np

    options: dict[str, Any] = {"inter_threads": 1, "intra_threads": 1, "compute_type": "float32"}
    (row,) = ids.tolist()
    if form == "decoder":
        found = np.array(ctranslate2.Generator(str(folder), **options).forward_batch([row]))[0]
    elif form == "encoder_decoder":
        spelled = [names[id_] for id_ in row]
        (said,) = ctranslate2.Translator(str(folder), **options).translate_batch(
            [spelled], target_prefix=[spelled], beam_size=1, end_token=[], min_decoding_length=0,
            max_decoding_length=len(row), return_logits_vocab=True,
        )  # fmt: skip
        found = np.stack([np.array(each) for each in said.logits[0]])
    else:
        encoder = ctranslate2.Encoder(str(folder), **options)
        found = np.array(encoder.forward_batch([row], token_type_ids=[[0] * len(row)]).last_hidden_state)[0]
    return torch.from_numpy(found.astype(np.float32))
