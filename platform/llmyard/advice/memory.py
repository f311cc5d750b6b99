"""What a training holds in memory, part by part, reckoned from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

from llmyard.models.config import T5, Bert, EncoderDecoder, Gpt2, Llama, Model, TransformerXl, WordVectors
from llmyard.models.size import activation_bytes, parameters_of

PROCESS_BYTES = 600_000_000  # Python, torch, transformers, Ray: as stages/sizing.py has it
COPIED_BYTES = 12  # a trained weight and its moments, copied into memory while a checkpoint is written; likewise


@dataclass(frozen=True)
class Shape:
    """A model as far as its memory goes.

    Attributes:
        config: Its layers.
        vocab_size: Tokens that it knows.
        positions: Most tokens it reads, where it learns positions.
        tied: Input and output vectors are one matrix.
        stored: Bytes of a number in the file it is loaded from; 4 of a model that is made anew.
        new_tokens: Whether the vocabulary is to get more tokens, as that of every model of another maker.
    """

    config: Model
    vocab_size: int
    positions: int
    tied: bool = True
    stored: int = 4
    new_tokens: bool = False

    @property
    def embedding(self) -> int:
        """Weights of the vectors of tokens, of input and output."""
        return self.vocab_size * self.config.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        apart = 0 if self.tied else self.vocab_size * self.config.hidden_size
        return parameters_of(self.config, self.vocab_size, self.positions) + apart


@dataclass(frozen=True)
class Way:
    """How a model is trained, as far as memory goes.

    Attributes:
        method: ``full``, ``frozen``, ``lora`` or ``prompt_tuning``.
        rank: Of LoRA's matrices.
        frozen_layers: How many of the lowest layers stay, of an encoder and a decoder each.
        micro_batch: Sequences of a forward pass.
        length: Tokens of each.
        on_gpu: Computes in bfloat16, in a GPU's own memory.
        checkpointing: Activations are computed again in the backward pass.
        logits: Whether there are any: an encoder that labels has none, and a fused loss never holds them.
        shards: Workers among which the states are divided.
    """

    method: str = "full"
    rank: int = 8
    frozen_layers: int = 0
    micro_batch: int = 1
    length: int = 128
    on_gpu: bool = False
    checkpointing: bool = False
    logits: bool = True
    shards: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker: of its GPU where it has one, else of its process.

    Attributes:
        weights: All weights, and adapters.
        gradients: Of what is trained.
        optimizer: AdamW's two moments of what is trained.
        activations: Of a micro-batch.
        rest: The process, and the copy while a checkpoint is written; 0 on a GPU.
        trained: Number of trained weights.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    rest: int
    trained: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.rest


def layers_of(config: Model) -> int:
    """Returns the number of layers of each stack."""
    match config:
        case T5() | EncoderDecoder():
            return max(config.encoder_layers, config.decoder_layers)
        case WordVectors():
            return 0
        case _:
            return config.layers


def lora_parameters(config: Model, rank: int) -> int:
    """Returns the weights of LoRA beside all matrices of attention and feed-forward: rank times (inputs + outputs) of
    each (Hu et al. 2022, section 4.1).
    """
    match config:
        case Gpt2():
            width = config.hidden_size  # queries, keys and values are one matrix
            return rank * config.layers * (4 + 2 + 5 + 5) * width
        case Llama():
            width, inner = config.hidden_size, config.feed_forward_size
            shared = config.head_width * (config.key_value_heads or config.heads)
            asked = config.head_width * config.heads
            return rank * config.layers * (2 * (width + asked) + 2 * (width + shared) + 3 * (width + inner))
        case Bert():
            width, inner = config.hidden_size, config.feed_forward_size
            return rank * config.layers * (4 * 2 * width + 2 * (width + inner))
        case T5():
            width, inner = config.hidden_size, config.feed_forward_size
            heads = config.heads * (config.head_size or width // config.heads)
            attention, feed = 4 * (width + heads), (3 if config.gated else 2) * (width + inner)
            return rank * (config.encoder_layers * (attention + feed) + config.decoder_layers * (2 * attention + feed))
        case EncoderDecoder():
            width, inner = config.hidden_size, config.feed_forward_size
            attention, feed = 4 * 2 * width, 2 * (width + inner)
            return rank * (config.encoder_layers * (attention + feed) + config.decoder_layers * (2 * attention + feed))
        case TransformerXl():
            width, inner = config.hidden_size, config.feed_forward_size
            return rank * config.layers * (5 * 2 * width + 2 * (width + inner))
        case _:
            return 0


def trained_parameters(shape: Shape, way: Way) -> int:
    """Returns how many weights get gradients.

    Where the vocabulary gets new tokens, the whole matrix of vectors gets a gradient and moments, though only the new
    rows change (training/adapting.py).
    """
    rows = shape.embedding if shape.new_tokens else 0
    match way.method:
        case "lora":
            return lora_parameters(shape.config, way.rank) + rows
        case "prompt_tuning":
            return shape.embedding
        case "frozen":
            inner = shape.parameters - shape.embedding
            return inner - inner * way.frozen_layers // max(1, layers_of(shape.config))
        case _:
            return shape.parameters


def memory_of(shape: Shape, way: Way) -> Memory:
    """Returns what one worker holds.

    A weight that is trained takes its number, its gradient and AdamW's two moments, 16 bytes in float32
    (Rajbhandari et al. 2020, section 3.1, of which the copy in half precision is not made here); one that is not takes
    its number only, 2 bytes in bfloat16. Activations are as models/size.py counts them, right within a third.
    """
    trained = trained_parameters(shape, way)
    # Of a model that is tuned as a whole the weights count as float32, as the platform means them to be.
    number = shape.stored if way.method in ("lora", "prompt_tuning") else 4
    adapters = lora_parameters(shape.config, way.rank) if way.method == "lora" else 0
    activations = activation_bytes(
        shape.config, shape.vocab_size, way.micro_batch, way.length, bytes_a_number=2 if way.on_gpu else 4,
        recomputed=way.checkpointing, fused_loss=not way.logits,
    )  # fmt: skip
    return Memory(
        weights=number * (shape.parameters + adapters) // way.shards,
        gradients=number * trained // way.shards,
        optimizer=2 * number * trained // way.shards,
        activations=activations,
        rest=0 if way.on_gpu else PROCESS_BYTES + COPIED_BYTES * trained // way.shards,
        trained=trained,
    )
