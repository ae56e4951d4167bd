"""Plans: which rows share a batch, which modality the batch trains, and in what order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import PlanConfig
from pipeline.counter_rng import Purpose, hashes, key_of, uniform
from pipeline.errors import ConfigError, DataError
from pipeline.features.feature_set import read_table, write_table
from pipeline.plans.assign import find_assignment
from pipeline.plans.builder import Choose, Draft
from pipeline.plans.resample import with_copies
from pipeline.scores.table import Scores, column
from pipeline.storage.schemas import ALL, PLAN, check_columns, read_metadata, with_metadata
from pipeline.storage.store_path import Place
from pipeline.storage.table_checks import check_plan

ADDED = ("relative", "smoothing", "temperature", "joint_share", "copies")
"""Fields that a plan's metadata have only where they are set, so that plans from before they were there keep their bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One global step: all ranks train `modality` (or "all") on `rows` together."""

    step: int
    modality: str
    rows: npt.NDArray[np.int64]
    assigned: npt.NDArray[np.int8] | None = None
    """(n,) of a batch whose rows train different modalities: the index of each row's among the plan's modalities, -1 for all of them."""

    def for_rank(self, rank: int, world_size: int) -> npt.NDArray[np.int64]:
        """The contiguous slice of the global batch that is this rank's; slices differ in size by at most one."""
        return self.rows[self.slice_of(rank, world_size)]

    def slice_of(self, rank: int, world_size: int) -> slice:
        """Where in the global batch this rank's rows are."""
        num = len(self.rows)
        return slice(num * rank // world_size, num * (rank + 1) // world_size)

    def trained(self, modalities: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(n, K): which modalities each row of a mixed batch trains, as far as it has them."""
        assert self.assigned is not None, "the rows of this batch train the same"
        trained: npt.NDArray[np.bool_] = (self.assigned[:, None] == np.arange(len(modalities))) | (
            self.assigned[:, None] < 0
        )
        return trained


class BatchPlan:
    """A plan as its table: one row a global step, in order."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.metadata: dict[str, Any] = read_metadata(table.schema)

    @classmethod
    def open(
        cls, place: Place, *, trusted: bool = False, num_rows: int | None = None
    ) -> "BatchPlan":
        """Memory-maps a plan file, and checks it in full, against the `num_rows` of the features too, unless this run wrote it.

        Raises MissingError, DataError, StoreError.
        """
        table = read_table(place, trusted=trusted)
        check_columns(table.schema, PLAN, str(place))
        if not trusted:
            check_plan(
                table.to_batches,
                table.schema,
                read_metadata(table.schema, str(place)),
                str(place),
                num_rows,
            )
        return cls(table)

    @property
    def fingerprint(self) -> str:
        """The hash of the plan's content and metadata."""
        if "fingerprint" not in self.metadata:
            raise DataError(
                "the plan has no fingerprint in its metadata", "give a plan that Remix wrote"
            )
        return str(self.metadata["fingerprint"])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def steps(self, start: int = 0) -> Iterator[Step]:
        """The steps from `start` on, read record batch by record batch."""
        for batch in self.table.slice(start).to_batches():
            modalities = batch.column("modality").to_pylist()
            numbers = batch.column("step").to_pylist()
            rows = batch.column("rows")
            offsets, values = rows.offsets.to_numpy(), rows.values.to_numpy()
            mixed = batch.column("assigned") if "assigned" in batch.schema.names else None
            bounds, owners = (
                (mixed.offsets.to_numpy(), mixed.values.to_numpy())
                if mixed is not None
                else (offsets, None)
            )
            for i, (step, modality) in enumerate(zip(numbers, modalities, strict=True)):
                own = None if owners is None else owners[bounds[i] : bounds[i + 1]]
                yield Step(
                    step=step,
                    modality=modality,
                    rows=values[offsets[i] : offsets[i + 1]],
                    assigned=own,
                )


def joint_draft(
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
) -> Draft:
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
    return Draft(
        ordered,
        [ALL],
        lambda part: np.zeros(part.num_rows, np.int8),
        config=config,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        metadata=metadata,
    )


def remix_draft(
    scores: Scores,
    config: PlanConfig,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    num_classes: int | None = None,
    parents: Mapping[str, str] | None = None,
) -> Draft:
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
        return Draft(
            table, [ALL], lambda part: np.zeros(part.num_rows, np.int8), owners=choose, **asked
        )
    # the index of "all" is -1 in an assignment, and the last of the names in a draft
    joint = [ALL] if config.joint_share else []
    return Draft(
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


def joint_plan(
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
) -> BatchPlan:
    """The warm-up plan of these rows, in memory (raises ConfigError, DataError)."""
    return build(
        joint_draft(
            rows,
            batch_size,
            seed,
            epoch,
            config=config,
            modalities=modalities,
            labels=labels,
            num_classes=num_classes,
            parents=parents,
        )
    )


def remix_plan(
    scores: Scores,
    config: PlanConfig,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    num_classes: int | None = None,
    parents: Mapping[str, str] | None = None,
) -> BatchPlan:
    """The remixed plan of these scores, in memory (raises ConfigError, DataError)."""
    return build(
        remix_draft(
            scores, config, batch_size, seed, epoch, num_classes=num_classes, parents=parents
        )
    )


def build(draft: Draft) -> BatchPlan:
    """The whole plan in memory."""
    table = pa.Table.from_batches(draft.batches())
    return BatchPlan(with_metadata(table, draft.metadata))


def write_plan(place: Place, plan: BatchPlan | Draft) -> str:
    """Writes a plan atomically and returns its fingerprint; a draft is made twice, to hash and to write, and never held whole (raises StoreError)."""
    if isinstance(plan, BatchPlan):
        write_table(place, plan.table)
        return plan.fingerprint
    schema = plan.schema()
    with place.create() as file, pa.ipc.new_file(file, schema) as writer:
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
    default = PlanConfig()
    asked = config.model_dump(
        mode="json",
        exclude={
            "policy",
            *(name for name in ADDED if getattr(config, name) == getattr(default, name)),
        },
    )
    known = {} if num_classes is None else {"num_classes": num_classes}
    return {
        **asked,
        "policy": policy,
        "modalities": list(modalities),
        **known,
        "parents": dict(parents or {}),
    }
