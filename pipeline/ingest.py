"""One shard -> one part per modality and an account of it; no Ray, so it runs anywhere.

The account is written last. A part whose account fits shard and configuration is finished, and a rerun skips it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import DecodeConfig
from pipeline.errors import SampleError, StoreError
from pipeline.media import channel_axis, decode_sample, shape_of
from pipeline.schema import fingerprint_of
from pipeline.shards import Sample, ShardReader, facts_of, only_text, open_shard
from pipeline.store import HashingFile, Place
from pipeline.tables import BATCH_ROWS, PartWriter, part_name

Array = npt.NDArray[Any]
VERSION = 2
"""Of what decoding makes of the same shard and configuration; parts and feature sets of another version are not reused."""

_SCANNED = pa.schema([("index", pa.int64()), ("sample_id", pa.string()), ("label", pa.string()), ("split", pa.string())])


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardScan:
    """What a shard holds, without its media: index, sample_id, label and split of each sample, its suffixes, and what was lost."""

    name: str
    digest: str
    samples: pa.Table
    suffixes: dict[str, int]
    num_lost: int
    losses: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One shard to turn into the parts of this index below `out`."""

    shard: Place
    name: str
    digest: str
    index: int
    out: Place
    config: DecodeConfig

    @property
    def account(self) -> Place:
        """Where the account of the parts lies."""
        return self.out / ".parts" / f"part-{self.index:05d}.json"

    @property
    def identity(self) -> dict[str, Any]:
        """What an account must say so that its parts need not be made again."""
        return {"version": VERSION, "shard": self.name, "digest": self.digest, "modalities": modalities_digest(self.config)}


def modalities_digest(config: DecodeConfig) -> str:
    """The hash of all of a configuration that changes the content of a part."""
    return fingerprint_of([[name, spec.model_dump(mode="json"), list(shape_of(name, spec))] for name, spec in config.modalities.items()])


def scan_shard(shard: Place, name: str) -> ShardScan:
    """Reads a shard without decoding its media (raises StoreError, MissingError)."""
    columns: dict[str, list[Any]] = {name: [] for name in _SCANNED.names}
    suffixes: Counter[str] = Counter()
    errors: list[str] = []
    with open_shard(shard) as file:
        reader = ShardReader(file, load=only_text)
        for sample in reader:
            suffixes.update(sample.suffixes)
            try:
                row = {"index": sample.index, **asdict(facts_of(sample, name))}
            except SampleError as error:
                errors.append(str(error))
                continue
            for column, value in row.items():
                columns[column].append(value)
    errors += [f"{reason}: {text}" for _, reason, text in reader.rejected()]
    return ShardScan(
        name=name,
        digest=reader.digest,
        samples=pa.table(columns, _SCANNED),
        suffixes=dict(suffixes),
        num_lost=len(errors),
        losses=errors[:3],
    )


def ingest(job: Job) -> dict[str, Any]:
    """Makes the parts of a shard, or finds them finished; returns their account (raises StoreError where the shard changed meanwhile)."""
    done = _finished(job)
    if done:
        return {**done, "reused": True}
    # the parts are about to change: an older account must not speak for them
    job.account.delete()
    rows = _Rows(job)
    wanted = {suffix for spec in job.config.modalities.values() for suffix in spec.member}
    with open_shard(job.shard) as file, rows.open_parts():
        reader = ShardReader(file, load=lambda suffix: suffix in wanted or only_text(suffix))
        for sample in reader:
            rows.add(sample)
        if reader.digest != job.digest:
            raise StoreError(f"shard {job.shard} changed while it was read", "run the command again when nobody writes the shard")
    rejected = rows.rejected + [{"sample_id": key, "stage": "shard", "reason": reason, "error": text} for key, reason, text in reader.rejected()]
    account = {
        **job.identity,
        "rows": len(rows.columns["sample_id"]),
        "files": {name: {"sha256": file.hexdigest(), "bytes": file.num_bytes} for name, file in rows.files.items()},
        "moments": {name: asdict(moments) for name, moments in rows.moments.items()},
        "members": reader.account,
        "rejected": rejected,
        "samples": rows.columns,
    }
    job.account.write_json(account)
    return {**account, "reused": False}


def _finished(job: Job) -> dict[str, Any] | None:
    if not job.account.exists():
        return None
    account = job.account.read_json()
    if any(account.get(key) != value for key, value in job.identity.items()):
        return None
    whole = all((job.out / name / part_name(job.index)).info().size == file["bytes"] for name, file in account["files"].items())
    return account if whole else None


class _Rows:
    """The growing parts of one shard, with the columns and the moments of their rows."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._specs = job.config.modalities
        self._writers: dict[str, PartWriter] = {}
        self.files: dict[str, HashingFile] = {}
        self.moments = {name: Moments.of(shape_of(name, spec)[0]) for name, spec in self._specs.items()}
        self.columns: dict[str, list[Any]] = {name: [] for name in ("sample_id", "label", "split", "index_in_shard", *(f"has_{m}" for m in self._specs))}
        self.rejected: list[dict[str, str]] = []

    @contextlib.contextmanager
    def open_parts(self) -> Iterator[None]:
        """Opens one file per modality; all of them appear when the block ends well."""
        with contextlib.ExitStack() as stack:
            for name, spec in self._specs.items():
                self.files[name] = stack.enter_context((self._job.out / name / part_name(self._job.index)).create())
                self._writers[name] = PartWriter(self.files[name], *shape_of(name, spec), BATCH_ROWS)
            yield
            for writer in self._writers.values():
                writer.close()

    def add(self, sample: Sample) -> None:
        """Decodes a sample into a row, or rejects it."""
        sample_id = sample.key
        try:
            facts = facts_of(sample, self._job.name)
            sample_id = facts.sample_id
            arrays = decode_sample(sample.members, self._specs)
            if all(array is None for array in arrays.values()):
                raise SampleError("missing_member", f"none of the modalities {', '.join(arrays)} among {', '.join(sorted(sample.suffixes))}")
        except SampleError as error:
            self.rejected.append({"sample_id": sample_id, "stage": "decode", "reason": error.reason, "error": error.detail})
            return
        for name, array in arrays.items():
            self._writers[name].append(array)
            self.columns[f"has_{name}"].append(array is not None)
            if array is not None:
                self.moments[name].add(array, facts.split == "train")
        for column, value in (("sample_id", facts.sample_id), ("label", facts.label), ("split", facts.split), ("index_in_shard", sample.index)):
            self.columns[column].append(value)


@dataclass(kw_only=True, slots=True)
class Moments:
    """Sums for mean and SD over the training rows, per channel; `num_present` counts the rows of every split that have the modality."""

    num_present: int
    num_values: int
    total: list[float]
    squares: list[float]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Moments":
        """No rows yet."""
        channels = shape[channel_axis(shape)] if shape else 1
        return cls(num_present=0, num_values=0, total=[0.0] * channels, squares=[0.0] * channels)

    def add(self, array: Array, train: bool) -> None:
        """Adds a row."""
        self.num_present += 1
        if not train:
            return
        by_channel = np.moveaxis(array, channel_axis(array.shape), 0).reshape(len(self.total), -1)
        self.num_values += by_channel.shape[1]
        for i, values in enumerate(by_channel):
            exact = values.astype(np.float64)
            self.total[i] += float(exact.sum())
            self.squares[i] += float(np.square(exact).sum())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            num_present=self.num_present + other.num_present,
            num_values=self.num_values + other.num_values,
            total=[a + b for a, b in zip(self.total, other.total, strict=True)],
            squares=[a + b for a, b in zip(self.squares, other.squares, strict=True)],
        )

    def summary(self) -> Mapping[str, list[float]]:
        """Mean and SD per channel; 0 and 1 where no training row has the modality."""
        if not self.num_values:
            return {"mean": [0.0] * len(self.total), "std": [1.0] * len(self.total)}
        mean = [total / self.num_values for total in self.total]
        spread = [max(0.0, square / self.num_values - m * m) ** 0.5 for square, m in zip(self.squares, mean, strict=True)]
        return {"mean": mean, "std": spread}
