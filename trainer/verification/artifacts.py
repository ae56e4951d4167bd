"""What `remix verify` holds a run's artifacts against: the features and the scores as their own content has them, and the problems found so far."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError, RemixError, StoreError
from pipeline.features.manifest import check_manifest, features_fingerprint
from pipeline.features.part_writer import part_name
from pipeline.scores.table import Scores
from pipeline.storage.ipc_reader import BatchFile
from pipeline.storage.metadata import Fingerprinter
from pipeline.storage.schemas import SPLITS, samples_schema, scores_schema
from pipeline.storage.store_path import MANIFEST, Place
from trainer.config import RunConfig

SAMPLE = pa.schema([("row", pa.int64()), ("sample_id", pa.string()), ("label", pa.int32())])
"""The columns that samples, scores and test have in common: equal hashes of them mean the same samples in the same order."""
MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    pa.ArrowException,
)
"""What reading JSON or a checkpoint of another shape than ours raises."""
Tick = Callable[[], None]


class Problems:
    """What does not hold: each kind of thing once an artifact, with how often it was seen; `epoch` is the one that is looked at."""

    def __init__(self, store: Place, run: Place) -> None:
        self._roots = (f"{run.path}/", f"{store.path}/")
        self._found: dict[tuple[int | None, str, str], tuple[str, int]] = {}
        self.epoch: int | None = None

    def add(self, place: Place, what: str, kind: str | None = None) -> None:
        """Notes a problem of an artifact; of a kind that it has in this epoch already, only the number."""
        path = place.path
        for root in self._roots:
            path = path.removeprefix(root)
        key = (self.epoch, path, kind or what)
        first, num = self._found.get(key, (what, 0))
        self._found[key] = (first, num + 1)

    def expect(self, place: Place, name: str, found: object, expected: object) -> None:
        """Notes a problem where a value is not the one that it should be."""
        if found != expected:
            self.add(place, f"{name} is {_short(found)}, not {_short(expected)}")

    def expect_metadata(
        self, place: Place, found: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> None:
        """Notes a problem for each entry of a table's metadata, or of its parents, that is not the expected one."""
        for key, value in expected.items():
            if isinstance(value, dict) and isinstance(found.get(key), dict):
                self.expect_metadata(
                    place,
                    {f"{key}.{name}": each for name, each in found[key].items()},
                    {f"{key}.{name}": each for name, each in value.items()},
                )
            else:
                self.expect(place, f"its metadata's {key}", found.get(key), value)

    @contextmanager
    def reading(self, place: Place) -> Iterator[None]:
        """Makes a problem of an artifact that is missing or damaged (raises StoreError where the store itself does not answer)."""
        try:
            yield
        except RemixError as error:
            if isinstance(error, StoreError):
                place.info()
            self.add(place, str(error))
        except MALFORMED as error:
            self.add(place, f"is damaged ({type(error).__name__}: {error})")

    def of(self, epoch: int) -> bool:
        """Whether an epoch has a problem."""
        return any(key[0] == epoch for key in self._found)

    def told(self) -> list[dict[str, Any]]:
        """The problems in the order in which they were found."""
        counted = {
            key: f"{what} ({num} such)" if num > 1 else what
            for key, (what, num) in self._found.items()
        }
        return [
            {"epoch": epoch, "artifact": path, "what": what}
            for (epoch, path, _), what in counted.items()
        ]


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else repr(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A feature set as its content has it: per row a few bytes, per split the hash of its samples."""

    manifest: dict[str, Any]
    modalities: list[str]
    num_classes: int
    fingerprint: str
    splits: npt.NDArray[np.int8]  # (N,) index into SPLITS, -1 for another name
    labels: npt.NDArray[np.int32]  # (N,)
    has: npt.NDArray[np.bool_]  # (N, K)
    digests: dict[str, str]

    def rows_of(self, split: str) -> npt.NDArray[np.int64]:
        """(n,) int64, ascending: the rows of a split."""
        return np.flatnonzero(self.splits == SPLITS.index(split)).astype(np.int64)


def read_features(place: Place, problems: Problems) -> Facts | None:
    """Reads samples.arrow once and hashes the feature set anew; None where that cannot be done."""
    facts = None
    with problems.reading(place / MANIFEST):
        manifest = (place / MANIFEST).read_json()
        modalities = list(manifest["modalities"])
        check_manifest(manifest, str(place / MANIFEST))
        if features_fingerprint(manifest, "") is None:
            raise DataError(f"{place / MANIFEST} names no shards or files", "decode again")
        with problems.reading(place / "samples.arrow"):
            facts = _read_samples(place / "samples.arrow", manifest, problems)
        if facts:
            problems.expect(
                place / MANIFEST, "its fingerprint", manifest["fingerprint"], facts.fingerprint
            )
            problems.expect(place / MANIFEST, "num_rows", manifest["num_rows"], len(facts.splits))
            problems.expect(
                place / MANIFEST,
                "splits",
                manifest["splits"],
                {name: int((facts.splits == i).sum()) for i, name in enumerate(SPLITS)},
            )
            for k, name in enumerate(modalities):
                problems.expect(
                    place / MANIFEST,
                    f"num_rows of {name!r}",
                    manifest["modalities"][name]["num_rows"],
                    int(facts.has[:, k].sum()),
                )
    return facts


def _read_samples(place: Place, manifest: dict[str, Any], problems: Problems) -> Facts:
    modalities = list(manifest["modalities"])
    file = BatchFile(place, samples_schema(modalities))
    content, by_split = Fingerprinter(file.schema), [Fingerprinter(SAMPLE) for _ in SPLITS]
    splits, labels, has, num_rows = (
        [np.empty(0, np.int8)],
        [np.empty(0, np.int32)],
        [np.empty((0, len(modalities)), bool)],
        0,
    )
    for batch in file.batches():
        content.update(batch)
        if not np.array_equal(
            batch.column("row").to_numpy(), np.arange(num_rows, num_rows + batch.num_rows)
        ):
            problems.add(
                place, f"its rows are not numbered from 0 up, from row {num_rows} on", "numbers"
            )
        num_rows += batch.num_rows
        codes = (
            pc.fill_null(pc.index_in(batch.column("split"), pa.array(SPLITS)), -1)
            .to_numpy()
            .astype(np.int8)
        )
        if (codes < 0).any():
            problems.add(
                place,
                f"row {num_rows - batch.num_rows + int(np.argmin(codes))} is in none of the splits {', '.join(SPLITS)}",
                "split",
            )
        for i, each in enumerate(by_split):
            each.update(batch.select(SAMPLE.names).filter(pa.array(codes == i)))
        splits.append(codes)
        labels.append(batch.column("label").to_numpy())
        has.append(
            np.stack(
                [batch.column(f"has_{name}").to_numpy(zero_copy_only=False) for name in modalities],
                axis=1,
            )
        )
    return Facts(
        manifest=manifest,
        modalities=modalities,
        num_classes=len(manifest["classes"]),
        fingerprint=str(features_fingerprint(manifest, content.hexdigest({}))),
        splits=np.concatenate(splits),
        labels=np.concatenate(labels),
        has=np.concatenate(has),
        digests={name: each.hexdigest({}) for name, each in zip(SPLITS, by_split, strict=True)},
    )


def check_parts(place: Place, facts: Facts, problems: Problems, tick: Tick) -> None:
    """Hashes every file of the features and compares with the manifest; calls `tick` after each."""
    for part in facts.manifest["parts"]:
        for name in facts.modalities:
            with problems.reading(place / MANIFEST):
                at, recorded = (
                    place / name / part_name(part["index"]),
                    part["files"][name]["sha256"],
                )
                with problems.reading(at):
                    problems.expect(at, "its SHA-256", at.sha256(), recorded)
            tick()


def read_scores(
    place: Place, epoch: int, facts: Facts, config: RunConfig, problems: Problems
) -> tuple[Scores | None, str]:
    """The scores of an epoch and the hash of their content; none where a plan cannot be made from them."""
    opened, fingerprint = None, ""
    with problems.reading(place):
        file = BatchFile(place, scores_schema(facts.modalities))
        content, samples = Fingerprinter(file.schema), Fingerprinter(SAMPLE)
        for batch in file.batches():
            content.update(batch)
            samples.update(batch.select(SAMPLE.names))
            _check_has(place, batch, facts, problems)
        fingerprint = content.hexdigest(file.metadata)
        problems.expect(place, "its fingerprint", file.metadata.get("fingerprint"), fingerprint)
        parents = {"features": facts.fingerprint, "config": config.digest}
        asked = {
            "epoch": epoch,
            "seed": config.seed,
            "modalities": facts.modalities,
            "num_classes": facts.num_classes,
            "parents": parents,
        }
        problems.expect_metadata(place, file.metadata, asked)
        if samples.hexdigest({}) != facts.digests["train"]:
            problems.add(
                place, "its rows, with their ids and labels, are not those of the split 'train'"
            )
        opened = Scores.open(place, hashed=False)
    return opened, fingerprint


def _check_has(place: Place, batch: pa.RecordBatch, facts: Facts, problems: Problems) -> None:
    rows = batch.column("row").to_numpy()
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(facts.has):
        raise DataError(
            f"{place} has rows from {rows.min()} to {rows.max()}, but the features have {len(facts.has)}",
            "score these features again",
        )
    for k, name in enumerate(facts.modalities):
        wrong = rows[
            np.isnan(batch.column(f"kl_{name}").to_numpy(zero_copy_only=False))
            == facts.has[rows, k]
        ]
        if len(wrong):
            problems.add(
                place,
                f"row {wrong[0]}: kl_{name} {'is NaN but the sample has' if facts.has[wrong[0], k] else 'is a number but the sample lacks'} {name!r}",
            )
