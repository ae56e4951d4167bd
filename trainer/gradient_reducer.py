"""Sums gradients over the ranks, while backward still runs.

A modality-pure step trains one encoder. DistributedDataParallel exchanges the gradients of all
parameters in every step, and searches the graph for those that the step does not use; here a step
names the parameters that it may change, and only their gradients are exchanged.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import ConfigError
from trainer.process_group import World

BUCKET_BYTES = 25 * 2**20
"""Size of a bucket, as in DistributedDataParallel: large enough for the network, small enough that
the first ones are sent early."""


class _Bucket:
    """Gradients of n weights of one dtype that are exchanged together, in given memory.

    The number of ranks that have each gradient follows them.
    """

    def __init__(self, weights: Sequence[nn.Parameter], values: Tensor) -> None:
        self._weights, self._values = weights, values
        sizes = [each.numel() for each in weights]
        *parts, self._counts = values.split([*sizes, len(weights)])
        self._views = [part.view_as(each) for part, each in zip(parts, weights, strict=True)]
        self._has = [False] * len(weights)
        self._work: dist.Work | None = None

    @property
    def is_complete(self) -> bool:
        """Whether this rank has all of the gradients."""
        return all(self._has)

    def add(self, number: int) -> None:
        """Move a computed gradient to the bucket, while it is in the processor's cache."""
        weights = self._weights[number]
        assert weights.grad is not None
        self._views[number].copy_(weights.grad)
        self._has[number], weights.grad = True, None

    def send(self) -> None:
        """Start to sum the gradients."""
        for number, weights in enumerate(self._weights):
            if weights.grad is not None:
                self.add(number)
            elif not self._has[number]:
                self._views[number].zero_()
        self._counts.copy_(torch.tensor(self._has), non_blocking=True)
        self._work = dist.all_reduce(self._values, async_op=True)

    def receive(self) -> None:
        """Wait for the sums. A parameter that no rank has a gradient of gets none.

        The gradients are views of the bucket until the next update.
        """
        assert self._work is not None
        self._work.wait()
        counts = [1.0] * len(self._views) if self.is_complete else self._counts.tolist()
        for weights, view, count in zip(self._weights, self._views, counts, strict=True):
            if weights.is_contiguous():
                weights.grad = view if count else None
            elif count:  # fused optimizers need the strides of the weights
                weights.grad = torch.empty_like(weights).copy_(view)


class GradientReducer:
    """Runs backward, and sums the gradients of the parameters that an update changes over ranks.

    All ranks must name the same parameters. A rank may have no gradient of some of them, because it
    has no row that uses them.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._world = world
        self._names = {weights: name for name, weights in model.named_parameters()}
        self._buckets: list[_Bucket] = []
        # bucket of each parameter, and its number there
        self._bucket_of: dict[nn.Parameter, tuple[_Bucket, int]] | None = None
        self._num_sent, self._sends = 0, False
        # SyncBatchNorm exchanges values in backward too, and collectives must have one order
        self._overlaps = not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
        self._changed: dict[nn.Parameter, None] = {}
        # memory by dtype, which all kinds of steps share: new memory costs as much as its bytes
        self._memory: dict[torch.dtype, Tensor] = {}
        self.num_bytes = 0
        """Size of the gradients that the last update exchanged, of each rank."""
        if world.size > 1:
            world.broadcast_tensors(model.state_dict().values())
            sizes = Counter[torch.dtype]()
            for weights in self._names:
                if weights.requires_grad:
                    weights.register_post_accumulate_grad_hook(self._computed)
                    sizes[weights.dtype] += weights.numel() + 1
            self._memory = {
                dtype: torch.empty(size, dtype=dtype, device=world.device)
                for dtype, size in sizes.items()
            }

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
        groups: list[list[nn.Parameter]] = []
        size = 0
        for weights in reversed(self._changed):
            if not groups or weights.dtype != groups[-1][0].dtype or size > BUCKET_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(weights)
            size += weights.nbytes
        self._buckets, self._num_sent = [], 0
        starts = Counter[torch.dtype]()
        for group in groups:
            dtype = group[0].dtype
            length = sum(weights.numel() + 1 for weights in group)
            values = self._memory[dtype][starts[dtype] : starts[dtype] + length]
            starts[dtype] += length
            self._buckets.append(_Bucket(group, values))
        self._bucket_of = {
            weights: (bucket, number)
            for bucket, group in zip(self._buckets, groups, strict=True)
            for number, weights in enumerate(group)
        }
        self.num_bytes = sum(weights.nbytes for weights in self._changed)

    def _computed(self, weights: nn.Parameter) -> None:
        """Count a gradient that backward has computed."""
        if self._bucket_of is None:
            return  # not a backward pass of this object, such as that of the refitted fusion
        if weights not in self._bucket_of:
            raise ConfigError(
                f"the step has a gradient of {self._names[weights]!r}, which it does not train",
                "name the output that uses it in `loss_outputs` of the strategy",
            )
        if self._sends:
            bucket, number = self._bucket_of[weights]
            bucket.add(number)
            self._send()

    def _send(self, *, all_left: bool = False) -> None:
        """Send the next buckets that are complete. The order is that of all ranks."""
        for bucket in self._buckets[self._num_sent :]:
            if not bucket.is_complete and not all_left:
                return
            bucket.send()
            self._num_sent += 1
