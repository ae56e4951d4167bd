"""The paper's ablation: masking rows one by one (decouple) in modality-pure batches (reassemble)
is Remix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.features.feature_set import FeatureSet
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan, Step
from pipeline.plans.planner import build, remix_plan_builder
from pipeline.scores.table import Scores
from pipeline.storage.schemas import ALL
from tests.support.plan_tables import scores_table
from tests.support.stores import run_config
from tests.support.strategy_runs import NAMES, Harness
from trainer.models.midfusion import MIDFUSIONS
from trainer.strategies.base import StepOutput

WEIGHTS = {"warmup_weight": 0.3, "remix_weight": 0.7}


class Trained(Harness):
    """A model and its optimizer, trained on given steps."""

    def __init__(self, store: Path, *, skip_masked: bool = True, **changes: Any) -> None:
        super().__init__(
            run_config(store, **{"train": WEIGHTS, **changes}), skip_masked=skip_masked
        )

    def take(self, step: Step) -> StepOutput:
        return self.step(self.load(step), epoch=1)

    def state(self) -> dict[str, torch.Tensor]:
        """Weights, buffers, gradients and the optimizer's moments."""
        found = {**self.model.state_dict()}
        for name, value in self.model.named_parameters():
            found |= {
                f"{name} {key}": each
                for key, each in self.optimizer.state.get(value, {}).items()
                if isinstance(each, torch.Tensor)
            }
            if value.grad is not None:
                found[f"{name} gradient"] = value.grad
        return {name: value.clone() for name, value in found.items()}


def remix_of(features: FeatureSet) -> BatchPlan:
    rows = features.rows_of("train")
    costs = np.where(features.has[rows], np.random.default_rng(5).random((len(rows), 3)), np.nan)
    scores = Scores(scores_table(costs, rows, num_classes=3, names=NAMES))
    return build(remix_plan_builder(scores, PlanConfig(order="interleaved"), 16, 0, 1))


def unlike(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
    return [name for name in a if not torch.equal(a[name], b[name])]


def moved_by(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    """State without gradients, which belong to a single step."""
    kept = [name for name in before if not name.endswith(" gradient")]
    return [name for name in kept if not torch.equal(before[name], after[name])]


CASES: list[tuple[str, str, str]] = [
    ("skip", "concat", "adam"),
    ("skip", "gated", "sgd"),
    ("skip", "mmtm", "adamw"),
    ("feature", "film", "sgd"),
    ("input", "centralnet", "adamw"),
]


@pytest.mark.parametrize(("mask", "fusion", "kind"), CASES)
def test_decouple_and_reassemble_are_remix_step_by_step_to_the_bit(
    store: Path, mask: str, fusion: str, kind: str
) -> None:
    small = {"kind": "cnn", "width": 4, "norm": "batch"}
    model = {"mask": mask, "fusion": fusion, "encoder": small, "hidden": 16}
    changes: dict[str, Any] = {"model": model, "optimizer": {"kind": kind, "lr": 0.01}}
    pure, decoupled = Trained(store, **changes), Trained(store, **changes)
    train = pure.features.rows_of("train")
    assert not pure.features.has[train].all()
    for start in (0, 16):  # so that every part has moments which a step could move
        step = Step(step=0, modality=ALL, rows=train[start : start + 16])
        assert torch.equal(pure.take(step).loss, decoupled.take(step).loss)
    assert unlike(pure.state(), decoupled.state()) == []
    steps = list(remix_of(pure.features).steps())
    assert {step.modality for step in steps} == set(NAMES)
    for step in steps:
        before = pure.state()
        owners = np.full(len(step.rows), NAMES.index(step.modality), np.int8)
        first, second = (
            pure.take(step),
            decoupled.take(Step(step=step.step, modality=ALL, rows=step.rows, assigned=owners)),
        )
        assert unlike(pure.state(), decoupled.state()) == [], step
        torch.testing.assert_close(first.loss, second.loss, rtol=1e-6, atol=0)
        assert torch.equal(first.num_correct, second.num_correct)
        after = pure.state()
        moved = {
            name
            for name in NAMES
            if any(f"modality-{name}." in key for key in moved_by(before, after))
        }
        assert step.modality in moved
        if mask == "skip" and fusion not in ("decision", *MIDFUSIONS):
            assert moved == {step.modality}


@pytest.mark.parametrize(("method", "kept"), [("remix", False), ("reassemble", True)])
def test_without_masks_a_batch_of_one_modalitys_rows_trains_all(
    store: Path, method: str, kept: bool
) -> None:
    reassembled = Trained(store, train=WEIGHTS, method=method, skip_masked=not kept)
    joint = Trained(store)
    step = next(step for step in remix_of(joint.features).steps() if step.modality == "sound")
    reassembled.take(step)
    joint.take(Step(step=0, modality=ALL, rows=step.rows))
    a, b = reassembled.state(), joint.state()
    assert (a.keys() == b.keys() and unlike(a, b) == []) == kept


def mixed_step(features: FeatureSet, num: int = 30) -> Step:
    """Rows assigned to one of their modalities or to all; some lack a modality."""
    rows, owners = features.rows_of("train")[:num], np.arange(num) % 4 - 1
    owners = np.where((owners >= 0) & ~features.has[rows, np.maximum(owners, 0)], -1, owners)
    assert (
        set(owners) == {-1, 0, 1, 2}
        and not features.has[rows[owners == -1]].all()
        and not features.has[rows[owners >= 0]].all()
    )
    return Step(step=0, modality=ALL, rows=rows, assigned=owners.astype(np.int8))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("mask", ["skip", "feature"])
def test_the_loss_of_a_mixed_batch_is_its_rows_losses_over_their_number(
    store: Path, mask: str, fusion: str
) -> None:
    taken = Trained(store, model={"mask": mask, "fusion": fusion})
    model, features, step = taken.model, taken.features, mixed_step(taken.features)
    assert step.assigned is not None
    labels, owners = features.labels[step.rows], step.assigned
    raw = {name: torch.from_numpy(features.read(name, step.rows)) for name in NAMES}
    inputs = taken.step.inputs(raw, step.rows, 1, training=True)
    total, shown = 0.0, []
    with torch.no_grad():
        for k, name in enumerate(NAMES):
            seen = features.has[step.rows, k] & ((owners == k) | (owners == -1))
            shown.append(model.encoder(name)(inputs[name]).double().numpy() * seen[:, None])
            head = model.head(name)
            own = cross_entropy(
                shown[-1] @ head.weight.double().numpy().T + head.bias.double().numpy(), labels
            )
            total += (
                np.where(owners == -1, WEIGHTS["warmup_weight"], WEIGHTS["remix_weight"])
                * own
                * seen
            ).sum() / len(labels)
        outputs = [model.fusion.output] if fusion == "concat" else list(model.fusion.outputs)
        each = [np.concatenate(shown, axis=1)] if fusion == "concat" else shown
        fused = sum(
            x @ out.weight.double().numpy().T + out.bias.double().numpy()
            for x, out in zip(each, outputs, strict=True)
        )
    total += cross_entropy(fused, labels).sum() / len(labels)
    assert float(taken.take(step).loss) == pytest.approx(total, rel=1e-5)


def test_a_mixed_batch_loads_what_any_of_its_rows_may_show(store: Path) -> None:
    taken = Trained(store)
    step = mixed_step(taken.features)
    batch = taken.load(step)
    assert step.assigned is not None and batch.unmasked is not None
    assert tuple(batch.inputs) == NAMES
    for k, name in enumerate(NAMES):
        kept = np.isin(step.assigned, (-1, k))
        assert batch.unmasked[name].tolist() == kept.tolist()
        assert batch.num_valid[name] == (kept & taken.features.has[step.rows, k]).sum()
    assert list(
        taken.load(Step(step=0, modality="touch", rows=step.rows[step.assigned == 2])).inputs
    ) == ["touch"]
