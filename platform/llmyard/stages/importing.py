"""Existing checkpoints, tokenizers and data sets taken into the store, so that a team can adopt one stage at a time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llmyard.core.artifact import MARK
from llmyard.core.artifacts import Artifact, ArtifactStore, sha256_of
from llmyard.core.errors import RequestError
from llmyard.core.fingerprint import fingerprint

IMPORTABLE = ("checkpoint", "tokenizer", "shards", "records")
# Formats that can run code when they are loaded.
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".joblib")


def take_in(store: ArtifactStore, kind: str, path: Path, name: str) -> Artifact:
    """Copies a folder or file into the store as a new artifact; the same content twice gives the first one.

    Raises:
        RequestError: The kind cannot be imported, or the files are not what it needs.
    """
    if kind not in IMPORTABLE:
        raise RequestError(f"{kind!r} cannot be imported", f"one of: {', '.join(IMPORTABLE)}")
    files = _files(path)
    details = _CHECKS[kind](files)
    print_ = fingerprint(imported=kind, files=sorted([relative, sha256_of(file)] for relative, file in files.items()))
    finished = store.find(kind, name, print_)
    if finished is not None:
        return finished
    with store.begin(kind, name, print_) as draft:
        for relative, file in files.items():
            draft.storage.copy_in(file, f"{draft.folder}/{relative}")
        return draft.commit(config={"kind": "import", "from": path.name}, parents=[], metrics={}, details=details)


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise RequestError(f"there is nothing at {path}", "name a folder or a file")
    found = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
    found = {name: file for name, file in found.items() if not _is_record(name)}
    if not found:
        raise RequestError(f"{path} is empty", "name a folder with files")
    return found


def _is_record(name: str) -> bool:
    """Returns whether a file is what a store keeps beside an artifact's own files: the copy gets its own."""
    return name == MARK or name.startswith("_making/") or re.fullmatch(r"files(-f\d+)?\.parquet", name) is not None


def _checkpoint(files: dict[str, Path]) -> dict[str, Any]:
    if "config.json" not in files:
        raise RequestError("the folder holds no config.json", "name a folder in the Hugging Face layout")
    unsafe = [name for name in files if name.endswith(_UNSAFE)]
    if unsafe:
        raise RequestError(f"{unsafe[0]} can run code when it is loaded", "convert the weights to safetensors")
    if not any(name.endswith(".safetensors") for name in files):
        raise RequestError("the folder holds no .safetensors weights", "save the model with safe_serialization")
    try:
        family = str(json.loads(files["config.json"].read_text(encoding="utf-8"))["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"config.json does not tell the model's type: {error}", "mend it") from None
    return {"family": family, "task": "causal_lm" if family == "gpt2" else ""}


def _tokenizer(files: dict[str, Path]) -> dict[str, Any]:
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    if FILE not in files:
        raise RequestError(f"there is no {FILE}", "name a tokenizer of Hugging Face's tokenizers")
    try:
        return {"vocab_size": Tokenizer.load(files[FILE]).vocab_size}
    except RequestError:
        raise
    except Exception as error:  # tokenizers raises nothing more exact
        raise RequestError(f"{FILE} is no tokenizer: {error}", "mend it") from None


def _shards(files: dict[str, Path]) -> dict[str, Any]:
    from llmyard.tokens.shards import Shard

    shards = [file for name, file in files.items() if name.endswith(".tokens.parquet")]
    if not shards:
        raise RequestError("there is no *.tokens.parquet", "name a folder of llmyard shards")
    return {"tokens": sum(Shard(file).tokens for file in shards)}


def _records(files: dict[str, Path]) -> dict[str, Any]:
    count = 0
    for name, file in files.items():
        if not name.endswith(".jsonl"):
            raise RequestError(f"{name} is no .jsonl file", "records are JSON lines")
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    json.loads(line)
                except ValueError:
                    raise RequestError(f"{name}:{number}: not JSON", "mend that line") from None
                count += 1
    return {"records": count}


_CHECKS = {"checkpoint": _checkpoint, "tokenizer": _tokenizer, "shards": _shards, "records": _records}
