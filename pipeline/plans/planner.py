"""Make plans: joint ones from rows alone, remixed ones from scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import BoolArray, Int8Array, Int64Array, IntArray
from pipeline.counter_rng import Purpose, hashes, key_of, uniform
from pipeline.errors import ConfigError, DataError
from pipeline.extensions import identities, is_import_path
from pipeline.plans.assign import assignment_rule
from pipeline.plans.builder import AssignRows, PlanBuilder
from pipeline.plans.config import PlanConfig
from pipeline.plans.plan import BatchPlan
from pipeline.plans.resample import with_copies
from pipeline.scores.table import Scores
from pipeline.storage.arrow_files import column, write_table
from pipeline.storage.metadata import read_metadata, with_metadata
from pipeline.storage.schemas import ALL
from pipeline.storage.store_path import StorePath

ALWAYS_RECORDED = {"order", "shares", "stratify", "locality"}
"""Fields always in a plan's metadata. Others are written only if they differ from their defaults,
so that a new field does not change the fingerprints of existing plans."""

KEPT_ROWS = 2**24
"""Maximum number of rows of a plan that is held in memory while it is written; 8 bytes each."""


def joint_plan_builder(
    rows: Int64Array,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    config: PlanConfig | None = None,
    modalities: Sequence[str] = (),
    labels: IntArray | None = None,
    num_classes: int | None = None,
    parents: Mapping[str, str] | None = None,
) -> PlanBuilder:
    """A builder of a joint plan, as in warm-up: every row (n,) trains all its modalities.

    Args:
        rows: (n,) rows to plan, in any order, without repeats.
        labels: (n,) their labels, required to stratify.
        modalities, num_classes, parents: Recorded in the metadata.
    Raises:
        ConfigError: the batch size is out of range, or labels are missing.
        DataError: no rows, or a repeated one.
    """
    config = config or PlanConfig()
    table = {"row": np.asarray(rows, np.int64)}
    if config.stratify:
        if labels is None:
            raise ConfigError(
                "field 'stratify' is true, but the rows have no labels", "pass their labels"
            )
        table["label"] = np.asarray(labels, np.int64)
    ordered = pa.table(table)
    if (np.diff(table["row"]) <= 0).any():
        ordered = ordered.take(np.argsort(table["row"], kind="stable"))
        repeated = np.flatnonzero(np.diff(ordered["row"].to_numpy()) == 0)
        if len(repeated):
            raise DataError(
                f"row {ordered['row'][int(repeated[0])]} occurs more than once in the rows to plan",
                "pass each row once",
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


def pure_plan_builder(
    rows: Int64Array,
    present: Mapping[str, BoolArray],
    passes: Mapping[str, int],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    config: PlanConfig,
    labels: IntArray,
    num_classes: int,
    parents: Mapping[str, str],
) -> PlanBuilder:
    """A builder of a plan in which every row trains several modalities, in batches of one.

    Args:
        rows: (n,) rows to plan, ascending.
        present: (n,) by modality, which rows have it; all modalities in order.
        passes: By modality, how often each row that has it trains it.
        labels: (n,) their labels.
    """
    names = [*present]
    counts = np.stack([has * passes.get(name, 0) for name, has in present.items()], axis=1)
    num = counts.sum(axis=1)
    repeated = np.repeat(np.tile(np.arange(len(names), dtype=np.int8), len(rows)), counts.ravel())
    first = np.repeat(np.cumsum(num) - num, num)
    table = pa.table(
        {
            "row": np.repeat(rows, num),
            "label": np.repeat(labels, num),
            "copy": (np.arange(num.sum()) - first).astype(np.int16),
            "assignment": repeated,
        }
    )
    metadata = _metadata(config, names, num_classes, parents, policy="pure")
    return PlanBuilder(
        table,
        names,
        _assignment_of,
        config=config,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        metadata={**metadata, "copies": "pure", "passes": dict(passes)},
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
    """A builder of a plan that assigns rows to modalities by their scores.

    Args:
        parents: Fingerprints recorded in the metadata; by default those of the scores and of the
            features that were scored.
    Raises:
        ConfigError: the batch size or a field of `config` does not fit the scores.
        DataError: the scores lack a column or metadata, or too few rows have a modality for its
            share.
    """
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
    if is_import_path(config.policy):
        metadata["extensions"] = identities([config.policy])
    assign, table, names = _assigner(scores, config, seed, epoch), scores.table, scores.modalities
    options: dict[str, Any] = {
        "config": config,
        "batch_size": batch_size,
        "seed": seed,
        "epoch": epoch,
        "metadata": metadata,
    }
    if config.copies == "resample":
        table = with_copies(scores, np.concatenate([assign(block) for block in scores.blocks()]))
        assign = _assignment_of
    if config.order == "mixed":
        return PlanBuilder(
            table,
            [ALL],
            lambda part: np.zeros(part.num_rows, np.int8),
            assign_within_batch=assign,
            **options,
        )
    # "all" is -1 in an assignment, but the last of the builder's names
    joint = [ALL] if config.joint_share else []
    return PlanBuilder(
        table,
        [*names, *joint],
        lambda part: np.where((assignment := assign(part)) < 0, np.int8(len(names)), assignment),
        **options,
    )


def _assigner(scores: Scores, config: PlanConfig, seed: int, epoch: int) -> AssignRows:
    """The assignment of any slice by the policy, -1 for the rows that train all modalities."""
    assign = assignment_rule(scores, config, seed, epoch).assign
    if not config.joint_share:
        return assign
    key = key_of(seed, epoch, Purpose.JOINT_SHARE)

    def with_joint(part: pa.Table) -> Int8Array:
        return np.where(
            uniform(hashes(key, column(part, "row"))) < config.joint_share,
            np.int8(-1),
            assign(part),
        )

    return with_joint


def _assignment_of(part: pa.Table) -> Int8Array:
    assignment: Int8Array = column(part, "assignment")
    return assignment


def build(builder: PlanBuilder) -> BatchPlan:
    """Build the complete plan in memory."""
    table = pa.Table.from_batches(builder.batches())
    return BatchPlan(with_metadata(table, builder.metadata))


def write_plan(path: StorePath, plan: BatchPlan | PlanBuilder) -> str:
    """Write a plan atomically and return its fingerprint. Raises StoreError.

    The fingerprint precedes the steps in the file, so a plan of more than KEPT_ROWS rows is built
    twice, first to hash it and then to write it: it is never complete in memory.
    """
    if isinstance(plan, BatchPlan):
        write_table(path, plan.table)
        return plan.fingerprint
    kept = list(plan.batches()) if plan.num_rows <= KEPT_ROWS else None
    schema = plan.schema(kept)
    with path.create() as file, pa.ipc.new_file(file, schema) as writer:
        for batch in kept or plan.batches():
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
        **config.model_dump(mode="json", include=ALWAYS_RECORDED),
        "min_share": 0.0,  # no longer a setting, but part of the fingerprint of every plan
        **config.model_dump(mode="json", exclude_defaults=True),
        "policy": policy,
        "modalities": list(modalities),
        **known,
        "parents": dict(parents or {}),
    }
