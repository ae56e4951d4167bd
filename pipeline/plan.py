"""Plans: which rows share a batch, which modality the batch trains, and in what order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.assign import find_assignment
from pipeline.checks import check_plan
from pipeline.config import PlanConfig
from pipeline.draft import Draft
from pipeline.errors import ConfigError, DataError
from pipeline.schema import ALL, PLAN, check_columns, read_metadata, with_metadata
from pipeline.scores import Scores
from pipeline.store import Place
from pipeline.tables import read_table, write_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One global step: all ranks train `modality` (or "all") on `rows` together."""

    step: int
    modality: str
    rows: npt.NDArray[np.int64]

    def for_rank(self, rank: int, world_size: int) -> npt.NDArray[np.int64]:
        """The contiguous slice of the global batch that is this rank's; slices differ in size by at most one."""
        num = len(self.rows)
        return self.rows[num * rank // world_size : num * (rank + 1) // world_size]


class BatchPlan:
    """A plan as its table: one row a global step, in order."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.metadata: dict[str, Any] = read_metadata(table.schema)

    @classmethod
    def open(cls, place: Place, *, trusted: bool = False, num_rows: int | None = None) -> "BatchPlan":
        """Memory-maps a plan file, and checks it in full, against the `num_rows` of the features too, unless this run wrote it.

        Raises MissingError, DataError, StoreError.
        """
        table = read_table(place, trusted=trusted)
        check_columns(table.schema, PLAN, str(place))
        if not trusted:
            check_plan(table.to_batches, table.schema, read_metadata(table.schema, str(place)), str(place), num_rows)
        return cls(table)

    @property
    def fingerprint(self) -> str:
        """The hash of the plan's content and metadata."""
        if "fingerprint" not in self.metadata:
            raise DataError("the plan has no fingerprint in its metadata", "give a plan that Remix wrote")
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
            for i, (step, modality) in enumerate(zip(numbers, modalities, strict=True)):
                yield Step(step=step, modality=modality, rows=values[offsets[i] : offsets[i + 1]])


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
            raise ConfigError("field 'stratify' is true, but the rows came without labels", "give their labels")
        table["label"] = np.asarray(labels, np.int64)
    ordered = pa.table(table)
    if (np.diff(table["row"]) <= 0).any():
        ordered = ordered.take(np.argsort(table["row"], kind="stable"))
        same = np.flatnonzero(np.diff(ordered["row"].to_numpy()) == 0)
        if len(same):
            raise DataError(f"row {ordered['row'][int(same[0])]} is to be planned more than once", "give each row once")
    metadata = _metadata(config, modalities, num_classes, parents, policy="joint")
    return Draft(ordered, [ALL], lambda part: np.zeros(part.num_rows, np.int8), config=config, batch_size=batch_size, seed=seed, epoch=epoch, metadata=metadata)


def remix_draft(
    scores: Scores, config: PlanConfig, batch_size: int, seed: int, epoch: int, *, num_classes: int | None = None, parents: Mapping[str, str] | None = None
) -> Draft:
    """A remixed plan in the making; parents not given are those that the scores name (raises ConfigError, DataError)."""
    known = {"scores": scores.fingerprint, "features": scores.features_fingerprint, **(parents or {})}
    metadata = _metadata(
        config, scores.modalities, num_classes or scores.num_classes, {name: hash_ for name, hash_ in known.items() if hash_}, policy=config.policy
    )
    assignment = find_assignment(scores, config, seed, epoch)
    return Draft(scores.table, scores.modalities, assignment.choose, config=config, batch_size=batch_size, seed=seed, epoch=epoch, metadata=metadata)


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
    return build(joint_draft(rows, batch_size, seed, epoch, config=config, modalities=modalities, labels=labels, num_classes=num_classes, parents=parents))


def remix_plan(
    scores: Scores, config: PlanConfig, batch_size: int, seed: int, epoch: int, *, num_classes: int | None = None, parents: Mapping[str, str] | None = None
) -> BatchPlan:
    """The remixed plan of these scores, in memory (raises ConfigError, DataError)."""
    return build(remix_draft(scores, config, batch_size, seed, epoch, num_classes=num_classes, parents=parents))


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


def _metadata(config: PlanConfig, modalities: Sequence[str], num_classes: int | None, parents: Mapping[str, str] | None, *, policy: str) -> dict[str, object]:
    asked = config.model_dump(mode="json", exclude={"policy"})
    known = {} if num_classes is None else {"num_classes": num_classes}
    return {**asked, "policy": policy, "modalities": list(modalities), **known, "parents": dict(parents or {})}
