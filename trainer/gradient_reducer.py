"""Sums gradients over the ranks, while backward still runs.

A modality-pure step trains one encoder. DistributedDataParallel exchanges the gradients of all
parameters in every step, and searches the graph for those that the step does not use; here a step
names the parameters that it may change, and only their gradients are exchanged.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import ConfigError
from trainer.process_group import World

BUCKET_BYTES = 25 * 2**20
"""Size of a bucket, as in DistributedDataParallel: large enough for the network, small enough that
the first ones are sent early."""


@dataclass
class _Bucket:
    """Gradients that are exchanged together, of one dtype."""

    weights: list[nn.Parameter]
    num_missing: int
    """Gradients that backward has not computed yet."""
    values: Tensor | None = None
    work: dist.Work | None = None
    is_complete: bool = True
    """Whether this rank has all of the gradients."""

    def send(self) -> None:
        """Start to sum the gradients, followed by the number of ranks that have each of them."""
        has = [weights.grad is not None for weights in self.weights]
        for weights in self.weights:
            if weights.grad is None:
                weights.grad = torch.zeros_like(weights)
        some = self.weights[0]
        self.is_complete = all(has)
        counts = torch.tensor(has, dtype=some.dtype).to(some.device, non_blocking=True)
        grads = [weights.grad.flatten() for weights in self.weights if weights.grad is not None]
        self.values = torch.cat([*grads, counts])
        self.work = dist.all_reduce(self.values, async_op=True)

    def receive(self) -> None:
        """Wait for the sums. A parameter that no rank has a gradient of keeps none."""
        assert self.values is not None and self.work is not None
        self.work.wait()
        sizes = [weights.numel() for weights in self.weights]
        *sums, counts = self.values.split([*sizes, len(sizes)])
        for weights, value in zip(self.weights, sums, strict=True):
            assert weights.grad is not None
            weights.grad.copy_(value.view_as(weights))
        if not self.is_complete:
            for weights, count in zip(self.weights, counts.tolist(), strict=True):
                if not count:
                    weights.grad = None


class GradientReducer:
    """Runs backward, and sums the gradients of the parameters that an update changes over ranks.

    All ranks must name the same parameters. A rank may have no gradient of some of them, because it
    has no row that uses them.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._world = world
        self._names = {weights: name for name, weights in model.named_parameters()}
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] | None = None
        self._num_sent, self._sends = 0, False
        # SyncBatchNorm exchanges values in backward too, and collectives must have one order
        self._overlaps = not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
        self._changed: dict[nn.Parameter, None] = {}
        self.num_bytes = 0
        """Size of the gradients that the last update exchanged, of each rank."""
        if world.size > 1:
            world.broadcast_tensors(model.state_dict().values())
            for weights in self._names:
                if weights.requires_grad:
                    weights.register_post_accumulate_grad_hook(self._computed)

    def backward(
        self,
        loss: Tensor,
        parameters: Iterable[nn.Parameter],
        *,
        starts_update: bool = True,
        ends_update: bool = True,
    ) -> None:
        """Compute the gradients of this rank's share of a loss.

        Args:
            parameters: Those that may get a gradient on any rank, in the order of the forward pass.
            starts_update: Whether this is the first of the losses whose gradients are added up.
            ends_update: Whether it is the last one, after which the gradients are summed.
        Raises:
            ConfigError: Another parameter gets a gradient, which would differ between ranks.
        """
        if self._world.size == 1:
            loss.backward()
            return
        if starts_update:
            self._changed = {}
        self._changed |= dict.fromkeys(parameters)
        self._fill_buckets()
        self._sends = self._overlaps and starts_update and ends_update
        try:
            loss.backward()
        finally:
            self._bucket_of = None
        if ends_update:
            self._send(all_left=True)
            for bucket in self._buckets:
                bucket.receive()

    def _fill_buckets(self) -> None:
        self._buckets, self._bucket_of, self._num_sent = [], {}, 0
        self.num_bytes = size = 0
        for weights in reversed(self._changed):
            fits = self._buckets and weights.dtype == self._buckets[-1].weights[0].dtype
            if not fits or size > BUCKET_BYTES:
                self._buckets.append(_Bucket([], 0))
                size = 0
            self._buckets[-1].weights.append(weights)
            self._buckets[-1].num_missing += 1
            self._bucket_of[weights] = self._buckets[-1]
            size += weights.nbytes
            self.num_bytes += weights.nbytes

    def _computed(self, weights: nn.Parameter) -> None:
        """Count a gradient that backward has computed."""
        if self._bucket_of is None:
            return  # not a backward pass of this object, such as that of the refitted fusion
        if weights not in self._bucket_of:
            raise ConfigError(
                f"the step has a gradient of {self._names[weights]!r}, which it does not train",
                "name the output that uses it in `loss_outputs` of the strategy",
            )
        self._bucket_of[weights].num_missing -= 1
        if self._sends:
            self._send()

    def _send(self, *, all_left: bool = False) -> None:
        """Send the next buckets that are complete. The order is that of all ranks."""
        for bucket in self._buckets[self._num_sent :]:
            if bucket.num_missing and not all_left:
                return
            bucket.send()
            self._num_sent += 1
