"""From scores, or from rows alone, to a plan."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.counter_rng import Purpose, hashes, key_of, uniform
from pipeline.errors import ConfigError, DataError
from pipeline.plans.assign import find_assignment
from pipeline.plans.builder import Choose, PlanBuilder
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.resample import with_copies
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column, write_table
from pipeline.storage.metadata import read_metadata, with_metadata
from pipeline.storage.schemas import ALL
from pipeline.storage.store_path import StorePath

STATED = {"order", "shares", "min_share", "stratify", "locality"}
"""Fields that a plan's metadata always have; the others only where they differ from their defaults, so that a new field changes no plan."""


def joint_plan_builder(
    rows: npt.NDArray[np.int64],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    config: PlanConfig | None = None,
    modalities: Sequence[str] = (),
    labels: npt.NDArray[np.integer] | None = None,
    num_classes: int | None = None,
    parents: Mapping[str, str] | None = None,
) -> PlanBuilder:
    """A warm-up plan in the making: all modalities of the (n,) rows; `labels` (n,) are needed to stratify (raises ConfigError, DataError)."""
    config = config or PlanConfig()
    table = {"row": np.asarray(rows, np.int64)}
    if config.stratify:
        if labels is None:
            raise ConfigError(
                "field 'stratify' is true, but the rows came without labels", "give their labels"
            )
        table["label"] = np.asarray(labels, np.int64)
    ordered = pa.table(table)
    if (np.diff(table["row"]) <= 0).any():
        ordered = ordered.take(np.argsort(table["row"], kind="stable"))
        same = np.flatnonzero(np.diff(ordered["row"].to_numpy()) == 0)
        if len(same):
            raise DataError(
                f"row {ordered['row'][int(same[0])]} is to be planned more than once",
                "give each row once",
            )
    metadata = _metadata(config, modalities, num_classes, parents, policy="joint")
    return PlanBuilder(
        ordered,
        [ALL],
        lambda part: np.zeros(part.num_rows, np.int8),
        config=config,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        metadata=metadata,
    )


def remix_plan_builder(
    scores: Scores,
    config: PlanConfig,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    num_classes: int | None = None,
    parents: Mapping[str, str] | None = None,
) -> PlanBuilder:
    """A remixed plan in the making; parents not given are those that the scores name (raises ConfigError, DataError)."""
    known = {
        "scores": scores.fingerprint,
        "features": scores.features_fingerprint,
        **(parents or {}),
    }
    metadata = _metadata(
        config,
        scores.modalities,
        num_classes or scores.num_classes,
        {name: hash_ for name, hash_ in known.items() if hash_},
        policy=config.policy,
    )
    choose, table, names = _chooser(scores, config, seed, epoch), scores.table, scores.modalities
    asked: dict[str, Any] = {
        "config": config,
        "batch_size": batch_size,
        "seed": seed,
        "epoch": epoch,
        "metadata": metadata,
    }
    if config.copies == "resample":
        table = with_copies(scores, np.concatenate([choose(block) for block in scores.blocks()]))
        choose = _chosen
    if config.order == "mixed":
        return PlanBuilder(
            table, [ALL], lambda part: np.zeros(part.num_rows, np.int8), owners=choose, **asked
        )
    # the index of "all" is -1 in an assignment, and the last of the names in a draft
    joint = [ALL] if config.joint_share else []
    return PlanBuilder(
        table,
        [*names, *joint],
        lambda part: np.where((chosen := choose(part)) < 0, np.int8(len(names)), chosen),
        **asked,
    )


def _chooser(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> Choose:
    """Any slice's modalities by the policy, -1 for the rows that keep all of them."""
    choose = find_assignment(scores, config, seed, epoch).choose
    if not config.joint_share:
        return choose
    key = key_of(seed, epoch, Purpose.JOINT_SHARE)

    def kept(part: pa.Table) -> npt.NDArray[np.int8]:
        return np.where(
            uniform(hashes(key, column(part, "row"))) < config.joint_share,
            np.int8(-1),
            choose(part),
        )

    return kept


def _chosen(part: pa.Table) -> npt.NDArray[np.int8]:
    chosen: npt.NDArray[np.int8] = column(part, "choice")
    return chosen


def build(draft: PlanBuilder) -> BatchPlan:
    """The whole plan in memory."""
    table = pa.Table.from_batches(draft.batches())
    return BatchPlan(with_metadata(table, draft.metadata))


def write_plan(path: StorePath, plan: BatchPlan | PlanBuilder) -> str:
    """Writes a plan atomically and returns its fingerprint; a draft is made twice, to hash and to write, and never held whole (raises StoreError)."""
    if isinstance(plan, BatchPlan):
        write_table(path, plan.table)
        return plan.fingerprint
    schema = plan.schema()
    with path.create() as file, pa.ipc.new_file(file, schema) as writer:
        for batch in plan.batches():
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return str(read_metadata(schema)["fingerprint"])


def _metadata(
    config: PlanConfig,
    modalities: Sequence[str],
    num_classes: int | None,
    parents: Mapping[str, str] | None,
    *,
    policy: str,
) -> dict[str, object]:
    known = {} if num_classes is None else {"num_classes": num_classes}
    return {
        **config.model_dump(mode="json", include=STATED),
        **config.model_dump(mode="json", exclude_defaults=True),
        "policy": policy,
        "modalities": list(modalities),
        **known,
        "parents": dict(parents or {}),
    }
