"""A model whose layers are divided among workers; micro-batches flow through them (Huang et al. 2019, GPipe)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmyard.core.errors import RequestError
from llmyard.core.seeds import mix
from llmyard.training.adversarial import Adversary
from llmyard.training.config import Training
from llmyard.training.layout import Layout, LossOf, clipped
from llmyard.training.objectives import CausalLmObjective
from llmyard.training.peers import Peers
from llmyard.training.precision import compute_dtype
from llmyard.training.streams import MicroBatch


class Piped(Layout):
    """One stage of a pipeline; parameters keep the names that they have in the whole model.

    Schedule: one forward, one backward in turn (1F1B; Narayanan et al. 2021), so that a worker holds the activations of
    at most as many micro-batches as there are stages.

    Args:
        model: Of family gpt2 or llama; the layers of other stages are dropped.
        config: Its ``parallel.pipeline`` is the number of stages.
        peers: All workers.
        device: Where to compute.
    """

    def __init__(self, model: Any, config: Training, peers: Peers, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        stages = config.parallel.pipeline
        mesh = init_device_mesh(device.type, (stages, peers.world // stages), mesh_dim_names=("pipeline", "replicate"))
        self._line = Peers.of(mesh.get_group("pipeline"))
        self._seed = config.seed
        dtype = compute_dtype(config.precision, device, model.config.hidden_size)
        self._stage = _Stage(model, self._line.rank, stages, dtype)
        self._schedules: dict[int, Any] = {}
        self._losses: list[Tensor] = []
        super().__init__(model, peers, device)
        self.readers = Peers.of(mesh.get_group("replicate"))

    def _named(self) -> dict[str, nn.Parameter]:
        return {self._stage.shared_names.get(name, name): each for name, each in super()._named().items()}

    def weights(self) -> dict[str, Tensor]:
        """Returns this stage's parameters and buffers by the names of the whole model."""
        return {self._stage.shared_names.get(name, name): each for name, each in super().weights().items()}

    def backward(
        self, batches: Sequence[MicroBatch], loss_of: LossOf, scale: float, adversary: Adversary | None = None
    ) -> float:
        """Runs this stage's part of the micro-batches; the last stage returns the sum of their losses, others 0."""
        objective = batches[0].objective
        if not isinstance(objective, CausalLmObjective) or objective.document_boundaries:
            raise RequestError(
                "parallel.pipeline trains causal_lm without document_boundaries", "use parallel.shard for others"
            )
        self._stage.begin([mix(self._seed, each.number) >> 1 for each in batches])
        losses: list[Tensor] = []
        schedule = self._schedule(len(batches), objective, scale)
        if self._line.rank == 0:
            schedule.step(torch.cat([each.batch["ids"][:, :-1] for each in batches]).to(self.device))
        elif self._line.rank == self._line.world - 1:
            labels = torch.cat([each.batch["labels"] for each in batches]).to(self.device)
            schedule.step(target=labels, losses=losses)
        else:
            schedule.step()
        return float(sum(loss.detach().double() for loss in losses)) / scale if losses else 0.0

    def _schedule(self, count: int, objective: CausalLmObjective, scale: float) -> Any:
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B

        self._scale = scale
        if count not in self._schedules:
            stage = PipelineStage(self._stage, self._line.rank, self._line.world, self.device, group=self._line.group)

            def loss(logits: Tensor, labels: Tensor) -> Tensor:
                return objective.token_loss.sum(logits, labels, training=True) * self._scale

            self._schedules[count] = Schedule1F1B(stage, count, loss_fn=loss, scale_grads=False)
        return self._schedules[count]

    def reduce(self, is_idle: bool) -> None:
        """Adds up the gradients of equal stages, and those of an embedding that first and last stage share."""
        super().reduce(is_idle)
        for name in self._stage.shared:
            parameter = self.parameters.get(name)
            gradient = parameter.grad if parameter is not None else None
            self._line.sum_tensors(
                [gradient if gradient is not None else torch.zeros(self._stage.shared[name], device=self.device)]
            )

    def clip(self, most: float) -> float:
        """As for a whole model; a shared embedding is counted once."""
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        gradients = [each.grad for each in self.parameters.values() if each.grad is not None]
        for name, each in self.parameters.items():
            if each.grad is not None and (name not in self._stage.shared or self._line.rank == 0):
                squares += each.grad.double().square().sum() / self.readers.world
        return clipped(gradients, squares, most)

    def sum_losses(self, *values: float) -> list[float]:
        """Returns the sums over all workers: only last stages have losses."""
        return self.peers.sum(*values)


class _Stage(nn.Module):
    """The layers of one stage, as a module from ids or hidden states to hidden states or logits.

    Attributes:
        shared: Shapes of parameters that the first and the last stage both hold, by their names in the whole model.
        shared_names: Names of such parameters in this stage, to those in the whole model.
    """

    def __init__(self, model: Any, number: int, stages: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        family = model.config.model_type
        if family not in ("gpt2", "llama"):
            raise RequestError(
                f"parallel.pipeline divides models of family gpt2 or llama, not {family}", "use parallel.shard instead"
            )
        inner = model.transformer if family == "gpt2" else model.model
        layers = inner.h if family == "gpt2" else inner.layers
        if len(layers) < stages:
            raise RequestError(f"{len(layers)} layers cannot be divided among {stages} stages", "lower pipeline")
        self._family, self._inner, self._model = family, [inner], [model]  # lists: not modules of this one
        self.is_first, self.is_last = number == 0, number == stages - 1
        self._seeds: list[int] = []
        self._passes = 0
        bounds = [len(layers) * each // stages for each in range(stages + 1)]
        self._layers = range(bounds[number], bounds[number + 1])
        embedding = "wte" if family == "gpt2" else "embed_tokens"
        self.shared: dict[str, torch.Size] = {}
        self.shared_names: dict[str, str] = {}
        if model.config.tie_word_embeddings:
            whole = f"{'transformer' if family == 'gpt2' else 'model'}.{embedding}.weight"
            self.shared = {whole: getattr(inner, embedding).weight.shape}
            if self.is_last:
                self.shared_names = {"lm_head.weight": whole}
        for index in range(len(layers)):
            if index not in self._layers:
                layers[index] = nn.Identity()
        if not self.is_first:
            setattr(inner, embedding, nn.Identity())
            if family == "gpt2":
                inner.wpe = nn.Identity()
        if not self.is_last:
            setattr(inner, "ln_f" if family == "gpt2" else "norm", nn.Identity())
            model.lm_head = nn.Identity()
        self.parts = nn.ModuleList([layers[index] for index in self._layers])

    def begin(self, seeds: list[int]) -> None:
        """Starts a step of micro-batches with these random seeds."""
        self._seeds, self._passes = seeds, 0

    def forward(self, x: Tensor) -> Tensor:
        """Returns hidden states (B, T, D), or logits (B, T, V) of the last stage."""
        if self._passes < len(self._seeds):  # shapes are found out by passes beyond the micro-batches
            torch.manual_seed(self._seeds[self._passes])
        self._passes += 1
        with torch.autocast(x.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self._pass(x)

    def _pass(self, x: Tensor) -> Tensor:
        inner, model = self._inner[0], self._model[0]
        positions = torch.arange(x.shape[1], device=x.device)[None]
        if self.is_first:
            x = inner.wte(x) + inner.wpe(positions) if self._family == "gpt2" else inner.embed_tokens(x)
            x = inner.drop(x) if self._family == "gpt2" else x
        placed = {} if self._family == "gpt2" else {"position_embeddings": inner.rotary_emb(x, positions)}
        for part in self.parts:
            x = part(x, **placed)
            x = x[0] if isinstance(x, tuple) else x
        if self.is_last:
            x = model.lm_head(inner.ln_f(x) if self._family == "gpt2" else inner.norm(x))
        return x
