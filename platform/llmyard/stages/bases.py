"""The checkpoints that a run begins with: found in the store or taken in from the hub, checked before Ray starts."""

from __future__ import annotations

import re
from pathlib import Path

from llmyard.core.artifacts import Artifact, ArtifactStore
from llmyard.core.errors import MissingArtifact, RequestError
from llmyard.models.written import Shape, shape_of
from llmyard.stages.config import Finetune, Pretrain
from llmyard.stages.importing import files_of, print_of, take_in
from llmyard.stages.naming import HUB, hub_name
from llmyard.stages.templates import TEMPLATE_FILES
from llmyard.stages.training_config import refusal
from llmyard.tasks.catalogue import form_of, kin_of
from llmyard.tokens.tokenizer import FILE
from llmyard.training.config import FAMILIES, objectives_of

# All that is read of a model: no pickles and no code, whatever else lies beside it.
WANTED = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", FILE, *TEMPLATE_FILES)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def base_of(init: str, store: ArtifactStore) -> Artifact:
    """Returns the checkpoint that ``init`` names.

    Raises:
        MissingArtifact: There is none, or it was not taken in from the hub yet.
        RequestError: The hub does not know it, or cannot be asked.
    """
    if not init.startswith(HUB):
        return store.get(init, "checkpoint")
    found = _taken(init, store)
    if found is None:
        raise MissingArtifact(f"{init} is not in {store.storage.uri} yet", "`llmyard run` takes it in")
    return found


def adopt(init: str, store: ArtifactStore) -> Artifact:
    """Returns the checkpoint of a model of the hub, or of a folder in its layout, taken in unless the store has it.

    Only weights in safetensors, ``config.json`` and ``tokenizer.json`` are read. The commit that a revision stands for
    now stands in the artifact's record, and its version in the fingerprint of what is made from it.

    Raises:
        RequestError: There is no such model, or it is not one that can be trained here.
    """
    found = _taken(init, store)
    if found is not None:
        return found
    folder = _folder(init)
    if folder is not None:
        return take_in(store, "checkpoint", folder, hub_name(init), only=WANTED)
    from huggingface_hub import snapshot_download

    origin = _origin(init)
    try:
        fetched = snapshot_download(origin["model"], revision=origin["commit"], allow_patterns=list(WANTED))
    except Exception as error:  # the library raises its own, httpx's and the operating system's
        raise _unreachable(init, error) from None
    return take_in(store, "checkpoint", Path(fetched), hub_name(init), only=WANTED, origin=origin)


def check_hub(init: str) -> None:
    """Raises RequestError if a model of the hub, or a folder, cannot be taken in; loads and fetches nothing."""
    folder = _folder(init)
    if folder is None:
        _origin(init)
        return
    files = files_of(folder, WANTED)
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        raise RequestError(
            f"{folder} holds no config.json with .safetensors weights",
            "name a folder in the Hugging Face layout; convert other weights to safetensors",
        )


def _taken(init: str, store: ArtifactStore) -> Artifact | None:
    folder = _folder(init)
    if folder is not None:
        return store.find("checkpoint", hub_name(init), print_of("checkpoint", files_of(folder, WANTED), {}))
    origin = _origin(init)
    for artifact in store.versions("checkpoint", hub_name(init)):
        if all(artifact.config.get(key) == value for key, value in origin.items()) and artifact.is_complete():
            return artifact
    return None


def _folder(init: str) -> Path | None:
    named = init.removeprefix(HUB)
    return Path(named) if named.startswith("/") else None


def _origin(init: str) -> dict[str, str]:
    """Returns a model's name and the commit that its revision stands for."""
    model, _, revision = init.removeprefix(HUB).partition("@")
    if _COMMIT.fullmatch(revision):
        return {"model": model, "commit": revision}
    from huggingface_hub import HfApi

    try:
        return {"model": model, "commit": str(HfApi().model_info(model, revision=revision or None).sha)}
    except Exception as error:  # as above
        raise _unreachable(init, error) from None


def _unreachable(init: str, error: Exception) -> RequestError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return RequestError(
        f"cannot get {init}: {first}", "check the name, the network and HF_TOKEN; or give `hub:/FOLDER`"
    )


def tokenizer_of(shards: Artifact, store: ArtifactStore) -> Artifact | None:
    """Returns the tokenizer that shards were written with; None where none is known.

    Of shards with an extended tokenizer, the one that was extended is a parent too: it comes first.
    """
    named = [parent for parent in shards.parents if parent.startswith("tokenizer/")]
    return store.get(named[-1]) if named else None


def same_tokenizer(checkpoint: Artifact, tokenizer: Artifact) -> None:
    """Raises RequestError if a checkpoint was made with another tokenizer."""
    if tokenizer.reference not in checkpoint.parents:
        raise RequestError(
            f"{checkpoint.reference} was made with another tokenizer than {tokenizer.reference}",
            "prepare the data with the checkpoint's tokenizer (`tokenizer: NAME`)",
        )


def check_base(config: Pretrain, base: Artifact, tokenizer: Artifact) -> None:
    """Raises RequestError if a run cannot go on from a checkpoint: by its family, its positions or its vocabulary."""
    family = str(base.details.get("family", ""))
    if form_of(family) != "encoder":  # those of BERT's kin have another head
        family = kin_of(family)
    for each in objectives_of(config.objective):
        if family not in FAMILIES[each.kind]:
            raise RequestError(
                f"{base.reference} is of family {family or 'unknown'!r}, which does not learn by {each.kind}",
                f"{each.kind} is learned by {', '.join(FAMILIES[each.kind])}",
            )
    check_family(config, base)
    shape = shape_of(base.local("config.json"))
    if shape.positions is not None and config.sequence_length > shape.positions:
        raise RequestError(
            f"{base.reference} has learned {shape.positions} positions, sequence_length is {config.sequence_length}",
            f"set sequence_length to {shape.positions} at most",
        )
    _check_vocabulary(base, shape, tokenizer)


def check_family(config: Pretrain | Finetune, base: Artifact) -> None:
    """Raises RequestError if a model of a checkpoint's family cannot be divided or computed as a run asks for."""
    found = refusal(config, kin_of(str(base.details.get("family", ""))))
    if found is not None:
        raise RequestError(f"{base.reference}: {found}", "change the field that it names")


def _check_vocabulary(base: Artifact, shape: Shape, tokenizer: Artifact) -> None:
    from llmyard.tokens.growth import Vocabulary, compatible

    if not any(entry.path == FILE for entry in base.files()):
        raise RequestError(f"{base.reference} has no {FILE}: what its ids mean is not known", "import it with that")
    old, new = Vocabulary.load(base.local(FILE)), Vocabulary.load(tokenizer.local(FILE))
    compatible(old, new, base.reference, tokenizer.reference)
    if shape.vocab_size < old.size:
        raise RequestError(
            f"{base.reference} has vectors of {shape.vocab_size:,} ids, its tokenizer has {old.size:,}",
            f"import it with the {FILE} that it was trained with",
        )


def check_vectors(config: Pretrain, vectors: Artifact, tokenizer: Artifact) -> None:
    """Raises RequestError if a new model cannot begin with a checkpoint's vectors: other tokenizer or other width."""
    assert config.model is not None
    same_tokenizer(vectors, tokenizer)
    width = shape_of(vectors.local("config.json")).hidden_size
    if width != config.model.hidden_size:
        raise RequestError(
            f"embedding_init: the vectors of {vectors.reference} have {width} numbers, the model's have "
            f"{config.model.hidden_size}",
            f"set model.hidden_size to {width}, or train vectors of {config.model.hidden_size}",
        )


def check_replay(general: Artifact, of_general: Artifact, tokenizer: Artifact) -> None:
    """Raises RequestError if general shards cannot be read beside those of the domain.

    Their tokenizer is the same, or one that the domain's extends: then their ids mean the same, and only new tokens
    never stand in them. The other way round they would hold ids that the model does not have.
    """
    if of_general.reference == tokenizer.reference:
        return
    from llmyard.tokens.growth import Vocabulary, compatible

    old, new = (Vocabulary.load(each.local(FILE)) for each in (of_general, tokenizer))
    compatible(old, new, f"replay's {general.reference}", tokenizer.reference)
