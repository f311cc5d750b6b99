"""How the workers of a run hold a model: each the whole of it, or divided among them.

Replicated: torch's all-reduce of summed gradients. Sharded: FSDP2 (Zhao et al. 2023). Tensor: columns and rows of the
matrices of each layer (Shoeybi et al. 2019). Pipelines are in ``pipeline``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmyard.core.errors import RequestError
from llmyard.training.adversarial import Adversary
from llmyard.training.config import Training
from llmyard.training.peers import Peers
from llmyard.training.streams import MicroBatch

LossOf = Callable[[MicroBatch], Tensor]


class Layout:
    """A model that every worker holds whole.

    Args:
        model: Trained in place.
        peers: All workers.
        device: Where to compute; the CPU by default.

    Attributes:
        readers: The workers as they divide micro-batches; those that share a micro-batch have the same rank here.
        is_even: Whether all workers must make the same number of passes.
        parameters: What is trained, by the names of the whole model.
    """

    is_even = False

    def __init__(self, model: Any, peers: Peers | None = None, device: torch.device | None = None) -> None:
        self.peers = peers or Peers()
        self.readers = self.peers
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device)
        self.parameters = self._named()

    def _named(self) -> dict[str, nn.Parameter]:
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """Returns the parameters and kept buffers of this worker by the names of the whole model, shared ones once.

        Parameters that are not trained stay as the run began with them: they are not among them.
        """
        seen: set[int] = set()
        found: dict[str, Tensor] = {}
        kept = self.model.state_dict(keep_vars=True)
        buffers = dict(self.model.named_buffers(remove_duplicate=False))
        for name, tensor in kept.items():
            if name not in buffers and not isinstance(tensor, nn.Parameter):
                continue  # the scales of a quantised base, which is not trained
            if id(tensor) not in seen and (tensor.requires_grad or not isinstance(tensor, nn.Parameter)):
                seen.add(id(tensor))
                found[name] = tensor.detach()
        return found

    def backward(
        self, batches: Sequence[MicroBatch], loss_of: LossOf, scale: float, adversary: Adversary | None = None
    ) -> float:
        """Adds the gradients of this worker's micro-batches, times ``scale``; returns the sum of their losses.

        With an adversary half of the gradients are those of disturbed micro-batches; the losses are not.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, each in enumerate(batches):
            self._before_pass(number == len(batches) - 1)
            if adversary is not None:
                total += adversary.backward(functools.partial(loss_of, each), scale)
                continue
            loss = loss_of(each)
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)

    def _before_pass(self, is_last: bool) -> None:
        """Nothing to prepare."""

    def reduce(self, is_idle: bool) -> None:
        """Adds up the gradients of all workers.

        Args:
            is_idle: Whether some worker had no micro-batch, and so has no gradients.
        """
        for each in self.parameters.values() if is_idle else ():
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        self.readers.sum_tensors(_local(each.grad) for each in self.parameters.values() if each.grad is not None)

    def clip(self, most: float) -> float:
        """Scales the gradients down to a norm of at most ``most``; returns the norm before."""
        return float(nn.utils.clip_grad_norm_(list(self.parameters.values()), most))

    def sum_losses(self, *values: float) -> list[float]:
        """Returns the sums over the micro-batches of all workers."""
        return self.readers.sum(*values)


class Divided(Layout):
    """A model whose weights are divided among workers: sharded, by the matrices of its layers, or both.

    Args:
        model: Changed in place.
        config: Its ``parallel`` says how.
        peers: All workers; more than one.
        device: Where to compute.
    """

    def __init__(self, model: Any, config: Training, peers: Peers, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        model.to(device)
        shard, tensor = config.parallel.shard, config.parallel.tensor
        copies = peers.world // (shard * tensor)
        names = ("replicate", "shard", "tensor")
        mesh = init_device_mesh(device.type, (copies, shard, tensor), mesh_dim_names=names)
        if tensor > 1:
            _divide_matrices(model, mesh["tensor"])
        if shard > 1:
            _shard(model, mesh["replicate", "shard"] if copies > 1 else mesh["shard"])
        super().__init__(model, peers, device)
        flat = mesh["replicate", "shard"]._flatten("readers")
        self.readers = Peers.of(flat.get_group())
        self.is_even = shard > 1

    def _before_pass(self, is_last: bool) -> None:
        if self.is_even:
            self.model.set_requires_gradient_sync(is_last)

    def reduce(self, is_idle: bool) -> None:
        """Adds up the gradients of all workers, where the backward pass has not."""
        if not self.is_even:
            super().reduce(is_idle)

    def clip(self, most: float) -> float:
        """As for a whole model; each part of a gradient is counted once."""
        gradients = [each.grad for each in self.parameters.values() if each.grad is not None]
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for each in gradients:
            squares += _local(each).double().square().sum() * _parts(each) / self.peers.world
        return clipped([_local(each) for each in gradients], squares, most)


def clipped(gradients: Sequence[Tensor], squares: Tensor, most: float) -> float:
    """Scales gradients down; returns their norm over all workers.

    Args:
        gradients: Of this worker.
        squares: This worker's share of the sum of all squares.
        most: Norm that is left.
    """
    dist.all_reduce(squares)
    norm = float(squares.sqrt())
    if norm > most:  # not where it is not finite: the step is passed over
        torch._foreach_mul_(list(gradients), most / (norm + 1e-6))
    return norm


def lay_out(model: Any, config: Training, peers: Peers, device: torch.device) -> Layout:
    """Returns a model as the workers are to hold it, its layers compiled or checkpointed as asked for.

    Raises:
        RequestError: A model of this kind cannot be divided so.
    """
    if config.activation_checkpointing:
        from torch.utils.checkpoint import checkpoint

        for layer in layers_of(model):
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    if config.compile:
        for layer in layers_of(model):
            layer.compile()
    if peers.world == 1 or config.parallel.is_plain:
        return Layout(model, peers, device)
    if config.parallel.pipeline > 1:
        from llmyard.training.pipeline import Piped

        return Piped(model, config, peers, device)
    return Divided(model, config, peers, device)


def layers_of(model: nn.Module) -> Iterator[Any]:
    """Yields the layers of a model: the members of its outermost lists of modules."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from layers_of(child)


def _shard(model: Any, mesh: Any) -> None:
    from torch.distributed.fsdp import FSDPModule, fully_shard

    # The decoder of our own Transformer projects the source for all its layers at once, before they run.
    for layer in layers_of(model) if model.config.model_type != "llmyard_transformer" else ():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums: losses are divided by all targets beforehand
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _divide_matrices(model: Any, mesh: Any) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    config = model.config
    if config.model_type != "llama":
        raise RequestError(
            f"parallel.tensor divides models of family llama, not {config.model_type}", "use parallel.shard instead"
        )
    for heads in (config.num_attention_heads, config.num_key_value_heads):
        if heads % mesh.size():
            raise RequestError(f"{heads} heads cannot be divided among {mesh.size()}", "lower parallel.tensor")
    for layer in model.model.layers:
        plan: dict[str, Any] = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"}
        plan |= {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
        plan |= {"mlp.gate_proj": ColwiseParallel(), "mlp.up_proj": ColwiseParallel()}
        parallelize_module(layer, mesh, plan)


def _local(tensor: Tensor) -> Tensor:
    """Returns this worker's part of a tensor that may be divided."""
    return getattr(tensor, "_local_tensor", tensor)


def _parts(tensor: Any) -> int:
    """Returns into how many parts a tensor is divided."""
    if not hasattr(tensor, "placements"):
        return 1
    parts = 1
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_shard():
            parts *= tensor.device_mesh.size(dimension)
    return parts
