"""Whether an epoch's plan is what scores and configuration make of the train split, and whether the steps log has each of its steps once."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import MissingError
from pipeline.plans.builder import Draft
from pipeline.plans.plan import BatchPlan, Step
from pipeline.plans.planner import joint_draft, remix_draft
from pipeline.plans.step_index import STEPS_SCHEMA, UNPLANNED
from pipeline.scores.table import Scores
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.metadata import Fingerprinter, read_metadata
from pipeline.storage.schemas import ALL, PLAN, SPLITS, steps_schema
from pipeline.storage.store_path import Place
from trainer.config import RunConfig
from trainer.run_directory import Run
from trainer.strategies import strategy_of
from trainer.verification.artifacts import Facts, Problems

STEPS_NAME = re.compile(r"epoch-(\d{4,})-step-(\d{8,})\.arrow")


class StepsLog:
    """The steps that an epoch's files say were taken, held against the plan's steps one by one."""

    def __init__(
        self,
        run: Run,
        files: Sequence[Place],
        epoch: int,
        modalities: Sequence[str],
        problems: Problems,
    ) -> None:
        self.num_taken = 0
        self._folder, self._epoch, self._problems = run.place / "steps", epoch, problems
        self._columns = [
            "epoch",
            "step",
            "modality",
            "num_rows",
            "rows_hash",
            *(f"num_rows_{name}" for name in modalities),
        ]
        self._schema = steps_schema(modalities)
        self._rows = self._read(files)
        self._next = next(self._rows, None)
        self._first_missing: int | None = None

    def compare(self, step: Step, number: int, counts: dict[str, int]) -> None:
        """Holds the log against a step of the plan; `counts` are the rows that train each modality."""
        while self._next and self._next[1]["step"] < number:
            self._problems.add(
                self._next[0],
                f"step {self._next[1]['step']} was taken before: it is in the log more than once",
                "twice",
            )
            self._next = next(self._rows, None)
        if self._next is None or self._next[1]["step"] > number:
            self._first_missing = number if self._first_missing is None else self._first_missing
            return
        place, row = self._next
        if self._first_missing is not None:
            self._problems.add(
                place,
                f"goes on with step {number}, but {_steps(self._first_missing, number - 1)} in no file before it",
                "gap",
            )
            self._first_missing = None
        planned = {
            "epoch": self._epoch,
            "modality": step.modality,
            "num_rows": len(step.rows),
            "rows_hash": step.rows_hash,
            **counts,
        }
        for name, value in planned.items():
            if row[name] != value:
                self._problems.add(
                    place,
                    f"step {number}: {name} is {row[name]!r}, but the plan says {value!r}",
                    name,
                )
        self.num_taken += 1
        self._next = next(self._rows, None)

    def end(self, num_steps: int, required: int) -> None:
        """Holds the log against the end of the plan, of which at least the first `required` steps were taken."""
        while self._next:
            self._problems.add(
                self._next[0],
                f"step {self._next[1]['step']} is not among the {num_steps} of the plan",
                "unplanned",
            )
            self._next = next(self._rows, None)
        if self._first_missing is not None and self._first_missing < required:
            self._problems.add(
                self._folder,
                f"{_steps(self._first_missing, required - 1)} in no file, though the run went on after that",
            )

    def _read(self, files: Sequence[Place]) -> Iterator[tuple[Place, dict[str, Any]]]:
        for place in sorted(files, key=lambda each: _first_step(each)):
            rows = self._rows_of(place)
            row = next(rows, None)
            if row is not None:
                self._problems.expect(place, "its first step", row["step"], _first_step(place))
                yield place, row
                yield from ((place, row) for row in rows)

    def _rows_of(self, place: Place) -> Iterator[dict[str, Any]]:
        with self._problems.reading(place):
            try:
                for batch in BatchFile(place, self._schema).batches(self._columns):
                    yield from batch.to_pylist()
            except MissingError:  # it was listed: a run that is taken up again writes what lies behind its checkpoint anew
                return


def _first_step(place: Place) -> int:
    found = STEPS_NAME.fullmatch(place.name)
    return int(found[2]) if found else 0


def _steps(first: int, last: int) -> str:
    return f"step {first} is" if first == last else f"steps {first} to {last} are"


@dataclass(slots=True)
class Sizes:
    """The batches of a modality's subset, counted."""

    num_steps: int = 0
    num_rows: int = 0
    smallest: int = 2**63 - 1
    largest: int = 0

    def add(self, size: int) -> None:
        self.num_steps, self.num_rows = self.num_steps + 1, self.num_rows + size
        self.smallest, self.largest = min(self.smallest, size), max(self.largest, size)


class PlanCheck:
    """One reading of a plan: its rows, steps and content are collected, and what does not hold by itself is noted; 4 bytes a feature row."""

    def __init__(
        self,
        place: Place,
        facts: Facts,
        problems: Problems,
        config: RunConfig,
        epoch: int,
        log: StepsLog,
    ) -> None:
        self.place, self._facts, self._problems, self._log = place, facts, problems, log
        joint = epoch < config.train.warmup_epochs or config.plan.order == "mixed"
        self._names = (
            [ALL] if joint else [*facts.modalities, *([ALL] if config.plan.joint_share else [])]
        )
        self._masks = strategy_of(config).masks
        self._copies = config.plan.copies != "none" and epoch >= config.train.warmup_epochs
        self.num_trained: Counter[str] = Counter()
        self.step_of: npt.NDArray[np.int32] = np.full(len(facts.splits), UNPLANNED, np.int32)
        self.sizes: dict[str, Sizes] = {}
        self.num_steps = self.num_rows = 0
        self.metadata: dict[str, Any] = {}
        self.fingerprint = ""

    def read(self) -> bool:
        """Whether the plan could be read to its end."""
        with self._problems.reading(self.place):
            file = BatchFile(self.place, PLAN)
            self.metadata, content = file.metadata, Fingerprinter(file.schema)
            for batch in file.batches():
                content.update(batch)
                for step in BatchPlan(pa.Table.from_batches([batch])).steps():
                    self._step(step)
            self.fingerprint = content.hexdigest(file.metadata)
            self._problems.expect(
                self.place, "its fingerprint", file.metadata.get("fingerprint"), self.fingerprint
            )
            return True
        return False

    def _step(self, step: Step) -> None:
        number, rows = self.num_steps, step.rows
        if step.step != number:
            self._add(f"step {number} has the number {step.step}", "number")
        if step.modality not in self._names:
            self._add(
                f"step {number} trains {step.modality!r}, which is not among {', '.join(self._names)}",
                "name",
            )
        outside = rows[(rows < 0) | (rows >= len(self.step_of))]
        if len(outside):
            self._add(
                f"step {number} has row {outside[0]}, but the features have {len(self.step_of)} rows",
                "outside",
            )
            rows = rows[(rows >= 0) & (rows < len(self.step_of))]
        self._rows(number, step.modality, rows)
        valid, modalities = self._facts.has[rows], self._facts.modalities
        if step.assigned is not None and len(step.assigned) != len(step.rows):
            self._add(
                f"step {number} says what {len(step.assigned)} rows train, but has {len(step.rows)}",
                "assigned",
            )
        elif step.assigned is None:
            self.num_trained[step.modality] += len(step.rows)
            valid = valid & np.array(
                [step.modality in (ALL, name) or not self._masks for name in modalities]
            )
        elif len(rows) == len(step.rows):
            self._assigned(number, step.assigned, rows)
            valid = valid & step.trained(modalities)
        counts = {
            f"num_rows_{name}": num
            for name, num in zip(modalities, valid.sum(axis=0).tolist(), strict=True)
        }
        self._log.compare(step, number, counts)
        self.sizes.setdefault(step.modality, Sizes()).add(len(step.rows))
        self.num_steps, self.num_rows = number + 1, self.num_rows + len(step.rows)

    def _assigned(
        self, number: int, assigned: npt.NDArray[np.int8], rows: npt.NDArray[np.int64]
    ) -> None:
        modalities = self._facts.modalities
        wrong = np.flatnonzero((assigned < -1) | (assigned >= len(modalities)))
        if len(wrong):
            self._add(
                f"step {number} assigns {assigned[wrong[0]]} to its row {rows[wrong[0]]}, but there are {len(modalities)} modalities",
                "assigned",
            )
            return
        lacking = np.flatnonzero((assigned >= 0) & ~self._facts.has[rows, assigned])
        if len(lacking):
            self._add(
                f"step {number} trains {modalities[assigned[lacking[0]]]!r} by its row {rows[lacking[0]]}, which lacks it",
                "impure",
            )
        for owner, num in zip(*np.unique(assigned, return_counts=True), strict=True):
            self.num_trained[ALL if owner < 0 else modalities[owner]] += int(num)

    def _rows(self, number: int, modality: str, rows: npt.NDArray[np.int64]) -> None:
        splits = self._facts.splits[rows]
        other = np.flatnonzero(splits != SPLITS.index("train"))
        if len(other):
            self._add(
                f"step {number} has row {rows[other[0]]}, which is of the split {(*SPLITS, 'unknown')[splits[other[0]]]!r}",
                "split",
            )
        before = self.step_of[rows]
        twice = np.flatnonzero(before != UNPLANNED)
        if len(twice) and not self._copies:
            self._add(
                f"row {rows[twice[0]]} is in step {number} and in step {before[twice[0]]}", "twice"
            )
        if len(np.unique(rows)) < len(rows) and not self._copies:
            self._add(f"step {number} has a row more than once", "twice in a step")
        if modality in self._facts.modalities:
            lacking = rows[~self._facts.has[rows, self._facts.modalities.index(modality)]]
            if len(lacking):
                self._add(
                    f"step {number} trains {modality!r}, which its row {lacking[0]} lacks", "impure"
                )
        self.step_of[rows[before == UNPLANNED]] = number

    def whole(self, batch_size: int) -> None:
        """Notes rows of the split that no step has, and subsets that are not cut as the rules say."""
        left = np.flatnonzero(
            (self._facts.splits == SPLITS.index("train")) & (self.step_of == UNPLANNED)
        )
        if len(left):
            self._add(
                f"{len(left)} rows of the split 'train' are in no step, the first of them row {left[0]}"
            )
        for name, sizes in self.sizes.items():
            num_steps = -(-sizes.num_rows // batch_size)
            if sizes.num_steps != num_steps or sizes.largest - sizes.smallest > 1:
                cut = f"{sizes.num_rows} rows of {name!r} are cut into {sizes.num_steps} steps of {sizes.smallest} to {sizes.largest}"
                self._add(
                    f"{cut}, not into {num_steps} of sizes that differ by at most one (batch_size {batch_size})"
                )

    def beside(self, stats: Place, index: Place) -> None:
        """Compares the statistics and the index that lie beside the plan with the plan."""
        with self._problems.reading(stats):
            told = stats.read_json()
            self._problems.expect(stats, "num_steps", told["num_steps"], self.num_steps)
            self._problems.expect(stats, "num_rows", told["num_rows"], self.num_rows)
            for name in {**told["modalities"], **self.sizes}:
                num = self.num_trained[name]
                counted = {
                    "num_steps": self.sizes.get(name, Sizes()).num_steps,
                    "num_rows": num,
                    "share": num / self.num_rows if self.num_rows else None,
                }
                found = told["modalities"].get(name, {})
                self._problems.expect(
                    stats,
                    f"what it says of {name!r}",
                    {key: found.get(key) for key in counted},
                    counted,
                )
        with self._problems.reading(index):
            file, start = BatchFile(index, STEPS_SCHEMA), 0
            self._problems.expect_metadata(
                index,
                file.metadata,
                {"num_rows": len(self.step_of), "parents": {"plan": self.fingerprint}},
            )
            for batch in file.batches():
                steps, expected = (
                    batch.column("step").to_numpy(),
                    self.step_of[start : start + batch.num_rows],
                )
                wrong = np.flatnonzero(steps[: len(expected)] != expected)
                if len(wrong):
                    what = f"row {start + wrong[0]} is said to be in step {steps[wrong[0]]}, but it is in step {expected[wrong[0]]} (-1: in none)"
                    self._problems.add(index, what, "step")
                start += batch.num_rows
            self._problems.expect(index, "its number of rows", start, len(self.step_of))

    def _add(self, what: str, kind: str | None = None) -> None:
        self._problems.add(self.place, what, kind)


def check_origin(
    plan: PlanCheck,
    epoch: int,
    facts: Facts,
    config: RunConfig,
    scores: tuple[Scores | None, str] | None,
    problems: Problems,
) -> None:
    """Makes the plan of an epoch again, from scores or for warm-up, and compares metadata, parents and the hash of all steps in their order."""
    with problems.reading(plan.place):
        if scores and scores[0] is None:
            parents = {"features": facts.fingerprint, "config": config.digest}
            asked = {
                "epoch": epoch,
                "seed": config.seed,
                "batch_size": config.train.batch_size,
                "parents": parents,
            }
            problems.expect_metadata(plan.place, plan.metadata, asked)
            return
        draft = _draft(epoch, facts, config, scores)
        problems.expect_metadata(plan.place, plan.metadata, draft.metadata)
        made = read_metadata(draft.schema())["fingerprint"]
        if made != plan.fingerprint:
            source = "the scores, the configuration" if scores else "the configuration"
            problems.add(
                plan.place,
                f"its content is {plan.fingerprint[:12]}, but {source} and the seed make the plan {made[:12]}",
            )


def _draft(
    epoch: int, facts: Facts, config: RunConfig, scores: tuple[Scores | None, str] | None
) -> Draft:
    parents = {"features": facts.fingerprint, "config": config.digest}
    if scores and scores[0] is not None:
        given = {**parents, "scores": scores[1]}
        return remix_draft(
            scores[0],
            config.plan,
            config.train.batch_size,
            config.seed,
            epoch,
            num_classes=facts.num_classes,
            parents=given,
        )
    rows = facts.rows_of("train")
    return joint_draft(
        rows,
        config.train.batch_size,
        config.seed,
        epoch,
        config=config.plan,
        modalities=facts.modalities,
        labels=facts.labels[rows],
        num_classes=facts.num_classes,
        parents=parents,
    )
