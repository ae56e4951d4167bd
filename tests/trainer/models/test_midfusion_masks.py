"""Mid-fusion with masked modalities: rows are independent, and slices add up."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.midfusion import MASKS, OWN, ROWS, batch, make, over_fusions
from trainer.models.midfusion import MIDFUSIONS
from trainer.models.model import Outputs


@over_fusions
def test_rows_of_a_batch_may_have_different_masks(fusion: str) -> None:
    names = ("frames", "note", "vector")
    inputs, present, _ = batch(names)
    present["vector"] = torch.arange(ROWS) % 4 != 3
    mine = torch.arange(ROWS) % 4  # the modality that each row keeps; 3: all
    unmasked = {name: (mine == k) | (mine == 3) for k, name in enumerate(names)}
    skip, feature = (make(names, fusion, mask).eval() for mask in MASKS[:2])
    mixed = skip(inputs, present, unmasked=unmasked)
    torch.testing.assert_close(feature(inputs, present, unmasked=unmasked).fused, mixed.fused)
    for row in range(ROWS):
        one = partial(pick, row=row)
        expected = skip(one(inputs), one(present), names[mine[row]] if mine[row] < 3 else "all")
        torch.testing.assert_close(mixed.fused[row], expected.fused[0], rtol=1e-4, atol=1e-5)


def pick(values: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in values.items()}


@pytest.mark.parametrize("mask", MASKS)
@over_fusions
def test_a_row_depends_on_what_it_has_and_on_no_other(fusion: str, mask: str) -> None:
    names = ("frames", "note", "picture")
    model = make(names, fusion, mask).eval()
    inputs, present, _ = batch(names)
    present["frames"] = torch.tensor([True, False, True, True, False, True])
    outputs = model(inputs, present)
    inputs["frames"][~present["frames"]] = float("nan")
    again = model(inputs, present)
    assert torch.equal(again.fused, outputs.fused) and torch.equal(
        again.unimodal["note"], outputs.unimodal["note"]
    )
    absent = model(inputs, {**present, "frames": torch.zeros(ROWS, dtype=torch.bool)}).fused
    torch.testing.assert_close(absent[~present["frames"]], outputs.fused[~present["frames"]])
    assert not torch.allclose(absent[present["frames"]], outputs.fused[present["frames"]])
    for row in range(ROWS):
        torch.testing.assert_close(
            model(pick(inputs, row), pick(present, row)).fused[0],
            outputs.fused[row],
            rtol=1e-4,
            atol=1e-5,
        )
    nothing = model(inputs, {name: torch.zeros(ROWS, dtype=torch.bool) for name in names}).fused
    assert nothing.isfinite().all() and torch.equal(nothing, nothing[:1].expand(ROWS, -1))


@pytest.mark.parametrize("mask", MASKS)
@over_fusions
def test_a_modality_is_predicted_by_itself(fusion: str, mask: str) -> None:
    names = ("frames", "note", "vector")
    model = make(names, fusion, mask).eval()
    inputs, present, _ = batch(names)
    present["note"] = torch.arange(ROWS) % 2 == 0
    first = model.predict(inputs, present)
    assert torch.equal(first.fused, model(inputs, present).fused)
    other = {**inputs, "frames": torch.randn_like(inputs["frames"])}
    second = model.predict(other, {**present, "note": torch.zeros(ROWS, dtype=torch.bool)})
    assert torch.equal(first.unimodal["vector"], second.unimodal["vector"]) and not torch.equal(
        first.fused, second.fused
    )
    features = model.features(inputs, present)
    for name in names:
        skipping = make(names, fusion).eval()(inputs, present, name).unimodal[name]
        assert torch.equal(first.unimodal[name][present[name]], skipping[present[name]])
        assert torch.equal(model.head(name)(features[name]), first.unimodal[name])
    assert torch.equal(model(other, present).unimodal["vector"], first.unimodal["vector"]) == (
        fusion == "centralnet"
    )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("fusion", ["concat", *MIDFUSIONS])
def test_which_parameters_of_a_masked_modality_change(fusion: str, mask: str) -> None:
    names = ("frames", "picture")
    model = make(names, fusion, mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-2)
    inputs, present, labels = batch(names)

    def step(train: str) -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = model(inputs, present, train)
        losses(outputs, labels).backward()
        optimizer.step()

    def own() -> dict[str, Tensor]:
        """Parameters, buffers and optimizer moments that belong to modality `picture` only."""
        parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        mine = {key: part for key, part in parts.items() if re.match(OWN, key)}
        moments = {
            f"{key} {name}": value
            for key, part in mine.items()
            for name, value in optimizer.state.get(part, {}).items()
        }
        return {key: value.detach().clone() for key, value in (mine | moments).items()}

    step("all")
    before = own()
    words = ("running_mean", "exp_avg", *(["fusion"] if fusion in MIDFUSIONS else []))
    assert all(any(word in key for key in before) for word in words)
    for _ in range(2):
        step("frames")
    moved = {key: not torch.equal(value, before[key]) for key, value in own().items()}
    assert (
        not any(moved.values())
        if mask == "skip"
        else all(moved[key] for key in moved if "exp_avg" in key or "running" in key)
    )


def losses(outputs: Outputs, labels: Tensor) -> Tensor:
    return torch.stack(
        [F.cross_entropy(x, labels) for x in (outputs.fused, *outputs.unimodal.values())]
    ).sum()
