"""Existing checkpoints, tokenizers and data sets taken into the store, so that a team can adopt one stage at a time."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmyard.core.artifact import FORMAT_VERSION, MARK
from llmyard.core.artifacts import Artifact, ArtifactStore, sha256_of
from llmyard.core.errors import RequestError
from llmyard.core.fingerprint import fingerprint
from llmyard.stages.origins import KEPT
from llmyard.tasks.config import KIN, Task
from llmyard.tokens.tokenizer import FILE, Tokenizer
from llmyard.training.config import FAMILIES

IMPORTABLE = ("checkpoint", "tokenizer", "shards", "records")
# Formats that can run code when they are loaded.
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".joblib")


@dataclass(frozen=True)
class _Folder:
    """What is to be taken in.

    Attributes:
        files: By their path in the artifact.
        details: Of the record that came with it, where llmyard made it.
    """

    files: dict[str, Path]
    details: dict[str, Any] = field(default_factory=dict)


def take_in(
    store: ArtifactStore,
    kind: str,
    path: Path,
    name: str,
    *,
    only: Sequence[str] = ("*",),
    origin: Mapping[str, str] | None = None,
) -> Artifact:
    """Copies a folder or file into the store as a new artifact; the same content twice gives the first one.

    A checkpoint's details say under ``can`` and ``cannot`` what it is good for here. Its tokenizer becomes its parent,
    as an artifact of its own unless the store has it, so that data can be prepared with it; where it is another
    maker's, that artifact has llmyard's control tokens behind its vocabulary.

    Args:
        store: Where it goes.
        kind: One of ``IMPORTABLE``.
        path: A folder or file.
        name: Of the artifact.
        only: Patterns of the names of files to take.
        origin: Where it comes from, for its record; another origin is another artifact.

    Raises:
        RequestError: The kind cannot be imported, or the files are not what it needs.
    """
    if kind not in IMPORTABLE:
        raise RequestError(f"{kind!r} cannot be imported", f"one of: {', '.join(IMPORTABLE)}")
    folder = _read(path, only)
    details = _CHECKS[kind](folder)
    print_ = print_of(kind, folder.files, origin or {})
    finished = store.find(kind, name, print_)
    if finished is not None:
        return finished
    parents = []
    if kind == "checkpoint" and FILE in folder.files:
        with tempfile.TemporaryDirectory(prefix="ly-") as scratch:
            parents.append(_tokenizer_of(store, _usable(folder.files[FILE], Path(scratch)), name).reference)
    with store.begin(kind, name, print_) as draft:
        for relative, file in folder.files.items():
            draft.storage.copy_in(file, f"{draft.folder}/{relative}")
        return draft.commit(
            config={"kind": "import", "from": path.name, **(origin or {})}, parents=parents, metrics={}, details=details
        )


def print_of(kind: str, files: Mapping[str, Path], origin: Mapping[str, str]) -> str:
    """Returns the fingerprint of what is taken in: its content, and where it comes from if that is given."""
    hashed = sorted([relative, sha256_of(file)] for relative, file in files.items())
    return fingerprint(imported=kind, files=hashed, **({"origin": dict(origin)} if origin else {}))


def _usable(file: Path, scratch: Path) -> Path:
    """Returns a tokenizer's file, or a copy in ``scratch`` with the control tokens that it lacks."""
    try:
        _load_tokenizer(file)
    except _OtherTokenizer:
        from llmyard.tokens.growth import with_control

        (scratch / FILE).write_text(with_control(file.read_text(encoding="utf-8")), encoding="utf-8")
        return scratch / FILE
    return file


def _tokenizer_of(store: ArtifactStore, file: Path, name: str) -> Artifact:
    """Returns the tokenizer artifact with a file's content, taken in under ``name`` if the store has none."""
    digest = sha256_of(file)
    for known in store.list("tokenizer"):
        if any(entry.path == FILE and entry.sha256 == digest for entry in known.files()):
            return known
    return take_in(store, "tokenizer", file, name)


def files_of(path: Path, only: Sequence[str]) -> dict[str, Path]:
    """Returns the files below a folder, at any depth for the pattern ``*`` and in the folder itself for another."""
    found = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    if "*" in only:
        return found
    return {name: file for name, file in found.items() if "/" not in name and any(fnmatch(name, each) for each in only)}


def _read(path: Path, only: Sequence[str]) -> _Folder:
    if path.is_file():
        return _Folder({path.name: path})
    if not path.is_dir():
        raise RequestError(f"there is nothing at {path}", "name a folder or a file")
    found = files_of(path, only)
    files = {name: file for name, file in found.items() if not _is_record(name)}
    if not files:
        raise RequestError(f"{path} is empty", "name a folder with files")
    return _Folder(files, _made_by_llmyard(found[MARK]) if MARK in found else {})


def _is_record(name: str) -> bool:
    """Returns whether a file is what a store keeps beside an artifact's own files: the copy gets its own."""
    return name == MARK or name.startswith("_making/") or re.fullmatch(r"files(-f\d+)?\.parquet", name) is not None


def _made_by_llmyard(mark: Path) -> dict[str, Any]:
    record = _json(mark)
    details = record.get("details") if record.get("format_version") == FORMAT_VERSION else None
    kept = {key: details[key] for key in KEPT if key in details} if isinstance(details, dict) else {}
    if "task_config" in kept:
        try:
            TypeAdapter(Task).validate_python(kept["task_config"])
        except ValidationError as error:
            raise RequestError(f"{mark}: `task_config` is not valid: {error}", "import the folder without it") from None
    return kept


def _json(file: Path) -> dict[str, Any]:
    """Returns the object in a file; raises RequestError if there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} is not JSON: {error}", "mend it, or download it again") from None
    if not isinstance(value, dict):
        raise RequestError(f"{file} holds no JSON object", "mend it, or download it again")
    return value


def _checkpoint(folder: _Folder) -> dict[str, Any]:
    files = folder.files
    if "config.json" not in files:
        raise RequestError("the folder holds no config.json", "name a folder in the Hugging Face layout")
    unsafe = [name for name in files if name.endswith(_UNSAFE)]
    if unsafe:
        raise RequestError(f"{unsafe[0]} can run code when it is loaded", "convert the weights to safetensors")
    if not any(name.endswith(".safetensors") for name in files):
        raise RequestError("the folder holds no .safetensors weights", "save the model with safe_serialization")
    family = _json(files["config.json"]).get("model_type")
    if not isinstance(family, str):
        raise RequestError(f"{files['config.json']} does not say `model_type`", "name a model of transformers")
    tokenizer = _tokenizer_fault(files)
    engine, positions = _tried(files["config.json"].parent)
    family = family.removeprefix("llmyard_")
    details: dict[str, Any] = {"family": family, "task": "" if engine else "causal_lm"}
    details |= {"sequence_length": positions} if positions else {}
    details |= folder.details
    if FILE in files:
        details["tokenizer_sha256"] = sha256_of(files[FILE])
    if family in ("span_tagger", "text_classifier", "transformer") and "task_config" not in folder.details:
        engine = engine or f"what it was tuned for stands in llmyard's {MARK}, which is not in the folder"
    trained = {name for families in FAMILIES.values() for name in families} | set(KIN)
    reasons = {
        "serve": tokenizer or engine,
        "ask": tokenizer or engine,
        "init": ("" if FILE in files else tokenizer)
        or ("" if family in trained else f"family {family} is not trained here"),
        "evaluate": "the data it was trained on is not known here",
    }
    cannot = {use: reason for use, reason in reasons.items() if reason}
    return details | {"can": [use for use in reasons if use not in cannot], "cannot": cannot}


def _tokenizer_fault(files: dict[str, Path]) -> str:
    """Returns why a checkpoint's tokenizer does not do here; "" if it does."""
    if FILE not in files:
        return f"the folder has no {FILE}"
    try:
        _load_tokenizer(files[FILE])
    except _OtherTokenizer as error:
        return error.what
    return ""


def _tried(folder: Path) -> tuple[str, int]:
    """Returns why a model cannot answer here ("" if it can), and the longest sequence it reads (0: no such limit).

    Raises:
        RequestError: It cannot be loaded at all.
    """
    from llmyard.core.errors import LlmyardError
    from llmyard.generation.capable import why_not
    from llmyard.models.families import load, unused_positions

    try:
        model = load(folder)
    except LlmyardError as error:
        raise RequestError(error.what, error.remedy) from None
    except Exception as error:  # transformers and safetensors raise what comes: OSError, RuntimeError, KeyError ...
        first = str(error).strip().partition("\n")[0]
        raise RequestError(f"the model in {folder} does not load: {first}", "mend it, or download it again") from None
    positions = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "max_tokens", 0)
    return why_not(model), int(positions or 0) - unused_positions(model.config)


class _OtherTokenizer(RequestError):
    """A tokenizer that is sound, and not llmyard's."""


def _load_tokenizer(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more exact
        raise RequestError(f"{file} is no tokenizer: {error}", "mend it, or download it again") from None
    try:
        return Tokenizer(backend)
    except RequestError as error:
        raise _OtherTokenizer(error.what, error.remedy) from None


def _tokenizer(folder: _Folder) -> dict[str, Any]:
    if FILE not in folder.files:
        raise RequestError(f"there is no {FILE}", "name a tokenizer of Hugging Face's tokenizers")
    file = folder.files[FILE]
    return {"vocab_size": _load_tokenizer(file).vocab_size, "tokenizer_sha256": sha256_of(file)}


def _shards(folder: _Folder) -> dict[str, Any]:
    from llmyard.tokens.shards import Shard

    shards = [file for name, file in folder.files.items() if name.endswith(".tokens.parquet")]
    if not shards:
        raise RequestError("there is no *.tokens.parquet", "name a folder of llmyard shards")
    return {"tokens": sum(Shard(file).tokens for file in shards)}


def _records(folder: _Folder) -> dict[str, Any]:
    count = 0
    for name, file in folder.files.items():
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


_CHECKS: dict[str, Callable[[_Folder], dict[str, Any]]] = {
    "checkpoint": _checkpoint,
    "tokenizer": _tokenizer,
    "shards": _shards,
    "records": _records,
}
