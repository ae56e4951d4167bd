"""Gradients of two ranks are summed, whatever each of them computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from tests.support.ranks import on_two_ranks
from trainer.gradient_reducer import BUCKET_BYTES, GradientReducer
from trainer.process_group import World

Work = Callable[[World], None]


class Parts(nn.Module):
    """Four weights of one value each, of which a loss uses some."""

    def __init__(self) -> None:
        super().__init__()
        for name in "abcd":
            self.register_parameter(name, nn.Parameter(torch.ones(1)))

    def forward(self, **factors: float) -> torch.Tensor:
        terms = [self.get_parameter(name) * factor for name, factor in factors.items()]
        return torch.stack(terms).sum()

    def grads(self) -> dict[str, float | None]:
        return {
            name: None if weights.grad is None else weights.grad.item()
            for name, weights in self.named_parameters()
        }


def sums(world: World) -> None:
    model = Parts()
    reducer = GradientReducer(model, world)
    names = [model.a, model.b, model.c]
    # a on both ranks, b on one, c on none although the step could train it; d is not of this step
    loss = model(a=2, b=3) if world.rank else model(a=5)
    reducer.backward(loss, names)
    assert model.grads() == {"a": 7, "b": 3, "c": None, "d": None}
    assert reducer.num_bytes == 3 * 4
    # an update of two batches, of which only the first uses b
    model.zero_grad()
    reducer.backward(model(a=1, b=1 + world.rank), names, ends_update=False)
    assert model.grads()["b"] == 1 + world.rank
    reducer.backward(model(d=1), [model.d], starts_update=False)
    assert model.grads() == {"a": 2, "b": 3, "c": None, "d": 2}


def buckets(world: World) -> None:
    torch.manual_seed(world.rank)  # rank 0's weights are those of all ranks
    width = 300
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(2 * BUCKET_BYTES // width**2)))
    alone = nn.Sequential(*(nn.Linear(width, width) for _ in model))
    reducer = GradientReducer(model, world)
    alone.load_state_dict(model.state_dict())
    x = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    reducer.backward(model(x[world.rank, None]).sum(), model.parameters())
    alone(x).sum().backward()
    assert reducer.num_bytes > 4 * BUCKET_BYTES
    for mine, expected in zip(model.parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None and expected.grad is not None
        torch.testing.assert_close(mine.grad, expected.grad)


def unnamed(world: World) -> None:
    model = Parts()
    reducer = GradientReducer(model, world)
    with pytest.raises(ConfigError, match=r"\bb\b"):
        reducer.backward(model(a=1, b=1), [model.a])


@pytest.mark.parametrize("work", [sums, buckets, unnamed])
def test_gradients_are_summed_over_ranks(work: Work, tmp_path: Path) -> None:
    on_two_ranks(tmp_path, work)
