"""CTranslate2 models made of the parts of another one, in memory: those that give vectors where the whole one writes.

A ``model.bin`` (version 6) is the number of the version, the name of the model's kind and that kind's revision, then
all variables, and the names of those that stand for others (CTranslate2's ``specs/model_spec.py``). Numbers are
little-endian; a text is its length with a closing zero byte, its bytes, and that zero.

Shapes: D hidden.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmyard.core.errors import CorruptArtifact

WEIGHTS, CONFIG = "model.bin", "config.json"
# Of a model that writes only, and of one that reads and writes: the file of its vocabulary.
VOCABULARY, SHARED_VOCABULARY = "vocabulary.json", "shared_vocabulary.json"
_VERSION, _FLOAT32 = 6, 0
_EMBEDDING, _PROJECTION = "decoder/embeddings/weight", "decoder/projection/"


@dataclass(frozen=True)
class Variable:
    """A variable as it lies in the file.

    Attributes:
        shape: Its sizes.
        type: Number of its type of numbers.
        data: Its bytes.
    """

    shape: tuple[int, ...]
    type: int
    data: memoryview | bytes


@dataclass(frozen=True)
class Weights:
    """All variables of a model, each under all of its names.

    Attributes:
        kind: Name of the model's kind.
        revision: Of the kind.
        variables: By name.
    """

    kind: str
    revision: int
    variables: dict[str, Variable]


def read_weights(data: bytes) -> Weights:
    """Returns the variables of a ``model.bin``, which share its memory.

    Raises:
        CorruptArtifact: It is none, or of a version that is not known here.
    """
    reader = _Reader(data)
    try:
        version = reader.number("<I")
        if version != _VERSION:
            raise CorruptArtifact(
                f"{WEIGHTS} has version {version}, known is {_VERSION}", "export the model again with this llmyard"
            )
        kind, revision = reader.text(), reader.number("<I")
        variables = {}
        for _ in range(reader.number("<I")):
            name = reader.text()
            shape = tuple(reader.number("<I") for _ in range(reader.number("<B")))
            type_ = reader.number("<B")
            variables[name] = Variable(shape, type_, reader.bytes(reader.number("<I")))
        others = [(reader.text(), reader.text()) for _ in range(reader.number("<I"))]
        variables |= {name: variables[other] for name, other in others}
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise CorruptArtifact(f"{WEIGHTS} ends early or is damaged: {error}", "export the model again") from None
    return Weights(kind, revision, variables)


def write_weights(weights: Weights) -> bytes:
    """Returns the ``model.bin`` of variables; one that has several names is written once."""
    first: dict[int, str] = {}
    others, parts = [], list[bytes | memoryview]()
    for name, each in sorted(weights.variables.items()):
        if first.setdefault(id(each), name) != name:
            others.append((name, first[id(each)]))
            continue
        head = struct.pack(f"<B{len(each.shape)}I", len(each.shape), *each.shape)
        parts += [_text(name), head, struct.pack("<BI", each.type, len(each.data)), each.data]
    begin = struct.pack("<I", _VERSION) + _text(weights.kind) + struct.pack("<II", weights.revision, len(first))
    end = [struct.pack("<I", len(others)), *(_text(one) + _text(other) for one, other in others)]
    return b"".join([begin, *parts, *end])


def encoder_alone(folder: Path) -> dict[str, bytes]:
    """Returns the files of the encoder of an encoder-decoder, as ``ctranslate2.Encoder`` takes them."""
    weights = read_weights((folder / WEIGHTS).read_bytes())
    kept = {name: each for name, each in weights.variables.items() if name.startswith("encoder/")}
    return {
        WEIGHTS: write_weights(Weights("TransformerEncoderSpec", 1, kept)),
        CONFIG: (folder / CONFIG).read_bytes(),
        VOCABULARY: (folder / SHARED_VOCABULARY).read_bytes(),
    }


def without_output_layer(folder: Path) -> dict[str, bytes]:
    """Returns the files of a decoder whose logits are its last hidden states: its output layer is the identity (D, D),
    in float32.
    """
    weights = read_weights((folder / WEIGHTS).read_bytes())
    kept = {name: each for name, each in weights.variables.items() if not name.startswith(_PROJECTION)}
    size = kept[_EMBEDDING].shape[1]
    identity = Variable((size, size), _FLOAT32, np.eye(size, dtype="<f4").tobytes())
    return {
        WEIGHTS: write_weights(Weights(weights.kind, weights.revision, {**kept, f"{_PROJECTION}weight": identity})),
        CONFIG: (folder / CONFIG).read_bytes(),
        VOCABULARY: (folder / VOCABULARY).read_bytes(),
    }


class _Reader:
    """Reads a file from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0

    def number(self, form: str) -> int:
        (found,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(found)

    def bytes(self, count: int) -> memoryview:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise struct.error(f"{count} bytes are missing")
        self._at += count
        return found

    def text(self) -> str:
        return str(self.bytes(self.number("<H"))[:-1], "utf-8")


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<H", len(data) + 1) + data + b"\0"
