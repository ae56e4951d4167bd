"""Decodes one shard into one part per modality and a decode record.

Independent of Ray, and of the media libraries, which run in the sandbox. The record is a JSON file
that is written last: parts whose record matches the shard and the configuration are complete, and
a rerun reuses them.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline.decode.config import DecodeConfig
from pipeline.decode.media.shapes import shape_of
from pipeline.decode.moments import Moments
from pipeline.decode.reuse import equals_recorded, lowered_limits, outdated_reasons
from pipeline.decode.sandbox.sandbox import Sandbox, sandbox_for
from pipeline.decode.tokenizer import tokenizer_paths
from pipeline.errors import REASONS, BudgetError, SampleError, StoreError
from pipeline.features.part_writer import BATCH_ROWS, PartWriter, part_name
from pipeline.shards.discover import ShardFile
from pipeline.shards.member_formats import MislabelledCounts
from pipeline.shards.reader import ShardReader, read_twice
from pipeline.shards.sample_metadata import parse_metadata
from pipeline.shards.samples import DamagedMember, RejectedSample, Sample
from pipeline.storage.arrow_files import write_table
from pipeline.storage.atomic_files import HashingFile
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import StorePath

VERSION = 3
"""Version of the decoded output; increased if the same shard and configuration decode differently.

Parts and feature sets of another version are not reused.
"""

_SCAN_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("sample_id", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ShardScan:
    """Content of a shard, read without decoding media.

    Attributes:
        columns: index, sample_id, label and split of the readable samples.
        suffixes: number of samples by member suffix.
        num_lost: number of samples that cannot be read.
        losses: messages for the first few of these.
        non_contiguous: number of runs of members by key, for samples whose members are not
            contiguous.
    """

    name: str
    digest: str
    columns: dict[str, list[Any]]
    suffixes: dict[str, int]
    num_lost: int
    losses: list[str]
    non_contiguous: dict[str, int]

    @cached_property
    def samples(self) -> pa.Table:
        """`columns` as a table."""
        return pa.table(self.columns, _SCAN_SCHEMA)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """Task to decode one shard into the parts number `index` of the feature set `out`.

    Attributes:
        name: name of the shard in the feature set.
        digest: content digest of the shard, from its scan.
        non_contiguous: number of runs of members by key, from the scan.
    """

    shard: StorePath
    name: str
    digest: str
    non_contiguous: Mapping[str, int]
    index: int
    out: StorePath
    config: DecodeConfig

    @property
    def record_path(self) -> StorePath:
        """Path of the decode record."""
        return self.out / ".parts" / f"part-{self.index:05d}.json"

    @property
    def provenance(self) -> dict[str, Any]:
        """Fields of the decode record that identify the shard and the decoder version."""
        return {"version": VERSION, "shard": self.name, "digest": self.digest}

    @property
    def settings(self) -> dict[str, Any]:
        """Field `decoding` of the decode record: modality specs, in order, limits and rules."""
        specs = self.config.modalities.items()
        return {
            "modalities": [[name, spec.model_dump(mode="json")] for name, spec in specs],
            "limits": self.config.limits.model_dump(mode="json"),
            "sample": self.config.sample.model_dump(mode="json", exclude_defaults=True),
        }

    def reproduces(self, record: dict[str, Any]) -> bool:
        """Return whether this job would produce the same parts as the recorded job."""
        specs, limits = self.config.modalities, self.config.limits
        # Both are missing from the records of older versions.
        settings, unread = record.get("decoding"), record.get("unread")
        if (
            settings is None
            or unread is None
            or any(record[key] != value for key, value in self.provenance.items())
        ):
            return False
        recorded_specs, recorded_limits = settings["modalities"], settings["limits"]
        return (
            settings.get("sample", {}) == self.settings["sample"]
            and [name for name, _ in recorded_specs] == list(specs)
            and all(equals_recorded(specs[name], spec) for name, spec in recorded_specs)
            and not lowered_limits(limits, recorded_limits)
            and outdated_reasons(limits, recorded_limits).isdisjoint(record["account"]["rejected"])
        )


def scan_shard(shard: StorePath, name: str, config: DecodeConfig) -> ShardScan:
    """Scan a shard without decoding its media. Raises StoreError or MissingError."""
    scan, reader = read_twice(
        shard,
        lambda reader: _Scan(reader, name, config),
        load=lambda suffix: suffix in config.sample.metadata,
        **config.reading.options,
    )
    return ShardScan(
        name=name,
        digest=reader.digest,
        columns=scan.columns,
        suffixes=dict(scan.suffixes),
        num_lost=scan.num_lost,
        losses=scan.losses,
        non_contiguous=reader.non_contiguous,
    )


class _Scan:
    """Metadata of a shard's samples, the number of unreadable ones and the first few messages."""

    def __init__(self, reader: ShardReader, name: str, config: DecodeConfig) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in _SCAN_SCHEMA.names}
        self.suffixes: Counter[str] = Counter()
        self.num_lost = 0
        self.losses: list[str] = []
        for item in reader:
            if isinstance(item, RejectedSample):
                self._add_loss(f"{item.reason}: {item.error}")
                continue
            try:
                metadata = parse_metadata(item, name, config.sample)
            except SampleError as error:
                self.suffixes.update(item.suffixes)
                self._add_loss(str(error))
                continue
            if metadata is None:
                continue
            self.suffixes.update(item.suffixes)
            for column, value in {"index": item.index, **asdict(metadata)}.items():
                self.columns[column].append(value)

    def _add_loss(self, text: str) -> None:
        self.num_lost += 1
        if len(self.losses) < 3:
            self.losses.append(text)


def decode_shard(job: ShardJob) -> dict[str, Any]:
    """Decode a shard into its parts, or reuse them if they are complete.

    Returns:
        The decode record, with `reused`: whether the parts already existed.
    Raises:
        BudgetError: too many consecutive samples were rejected.
        StoreError: the shard changed while it was read.
    """
    existing = _matching_record(job)
    if existing:
        return {**existing, "reused": True}
    # An old record must not describe parts that are being rewritten.
    job.record_path.delete()
    tokenizers = [path.read_bytes().decode() for path in tokenizer_paths(job.out, job.config)]
    rows = _Rows(job, sandbox_for(job.config.modalities, job.config.limits, tokenizers))
    needed = job.config.reading.loaded
    with ShardFile(job.shard) as file, rows.open_parts():
        reader = ShardReader(
            file,
            load=lambda suffix: suffix in needed,
            non_contiguous=job.non_contiguous,
            **job.config.reading.options,
        )
        for item in reader:
            rows.add(item, reader)
        rows.ignore(reader.strays)
        if reader.digest != job.digest:
            raise StoreError(
                f"Shard changed while it was read: {job.shard}",
                "Run the command again after the shard has been written.",
            )
    record = {
        **job.provenance,
        "decoding": job.settings,
        "rows": len(rows.columns["sample_id"]),
        "files": {
            name: {"sha256": file.hexdigest(), "bytes": file.num_bytes}
            for name, file in rows.files.items()
        },
        "moments": {name: asdict(moments) for name, moments in rows.moments.items()},
        "account": {
            **asdict(reader.accounting),
            "rejected": dict(Counter(row["reason"] for row in rows.rejected)),
        },
        "ignored": dict(rows.ignored),
        "mislabelled": rows.mislabelled.by_suffix,
        "unread": {**job.config.reading.unread(rows.suffixes), **rows.unread_streams},
        "rejected": rows.rejected,
        "samples": rows.columns,
    }
    job.record_path.write_json(record)
    return {**record, "reused": False}


def _matching_record(job: ShardJob) -> dict[str, Any] | None:
    """Return the decode record if it matches the job and its parts are complete."""
    if not job.record_path.exists():
        return None
    record = job.record_path.read_json()
    is_complete = job.reproduces(record) and all(
        (job.out / name / part_name(job.index)).info().size == file["bytes"]
        for name, file in record["files"].items()
    )
    return record if is_complete else None


class _Rows:
    """Rows decoded so far from one shard: part files, sample columns, moments and rejections."""

    def __init__(self, job: ShardJob, sandbox: Sandbox) -> None:
        self._job = job
        self._sandbox = sandbox
        self._decoded = job.config.members
        self._num_consecutive = 0
        self._specs = job.config.modalities
        self._writers: dict[str, PartWriter] = {}
        self.files: dict[str, HashingFile] = {}
        self.moments = {
            name: Moments.of(*shape_of(name, spec)) for name, spec in self._specs.items()
        }
        self.columns: dict[str, list[Any]] = {
            name: []
            for name in (
                "sample_id",
                "label",
                "split",
                "index_in_shard",
                *(f"has_{m}" for m in self._specs),
            )
        }
        self.rejected: list[dict[str, str]] = []
        self.ignored: Counter[str] = Counter()
        self.mislabelled = MislabelledCounts()
        self.suffixes: Counter[str] = Counter()
        self.unread_streams: Counter[str] = Counter()
        self._half_read = job.config.half_read

    @contextlib.contextmanager
    def open_parts(self) -> Iterator[None]:
        """Create one part file per modality; they become visible if the block succeeds."""
        with contextlib.ExitStack() as stack:
            for name, spec in self._specs.items():
                self.files[name] = stack.enter_context(
                    (self._job.out / name / part_name(self._job.index)).create()
                )
                self._writers[name] = PartWriter(
                    self.files[name], *shape_of(name, spec), BATCH_ROWS
                )
            yield
            for writer in self._writers.values():
                writer.close()

    def ignore(self, members: Iterable[DamagedMember]) -> None:
        """Count members that are left out, by the last part of their suffix."""
        self.ignored.update(
            member.member.rpartition("/")[2].rpartition(".")[2].lower() for member in members
        )

    def add(self, item: Sample | RejectedSample, reader: ShardReader) -> None:
        """Decode a sample into a row, or reject it, or ignore it if it is none.

        Raises BudgetError if too many consecutive samples were rejected.
        """
        if isinstance(item, RejectedSample):
            self._reject(item.key, "shard", item.reason, item.error)
            return
        self.ignore(item.ignored)
        sample_id = item.key
        try:
            metadata = parse_metadata(item, self._job.name, self._job.config.sample)
            if metadata is None:
                reader.ignore(item)
                self.ignored.update(suffix.rpartition(".")[2] for suffix in item.suffixes)
                return
            sample_id = metadata.sample_id
            members = {
                suffix: data for suffix, data in item.members.items() if suffix in self._decoded
            }
            arrays = self._sandbox.decode(members)
            if all(array is None for array in arrays.values()):
                raise SampleError(
                    "missing_member",
                    f"No content for any of the modalities {', '.join(arrays)}."
                    f" The sample has {', '.join(sorted(item.suffixes))}.",
                )
            unread = [
                f"{kind} of {suffix}"
                for suffix, kind in self._half_read.items()
                if suffix in members and kind in self._sandbox.probe(members[suffix], suffix)
            ]
        except SampleError as error:
            self._reject(sample_id, "decode", error.reason, error.detail)
            return
        self._num_consecutive = 0
        self.suffixes.update(item.suffixes)
        self.mislabelled.add(members)
        self.unread_streams.update(unread)
        for name, array in arrays.items():
            self._writers[name].append(array)
            self.columns[f"has_{name}"].append(array is not None)
            if array is not None:
                self.moments[name].add(array, metadata.split == "train")
        for column, value in (
            ("sample_id", metadata.sample_id),
            ("label", metadata.label),
            ("split", metadata.split),
            ("index_in_shard", item.index),
        ):
            self.columns[column].append(value)

    def _reject(self, sample_id: str, stage: str, reason: str, error: str) -> None:
        assert reason in REASONS, reason
        self.rejected.append(
            {"sample_id": sample_id, "stage": stage, "reason": reason, "error": error}
        )
        self._num_consecutive += 1
        limit = self._job.config.max_rejected_in_a_row
        if self._num_consecutive > limit:
            counts = ", ".join(
                f"{reason} {num}"
                for reason, num in Counter(row["reason"] for row in self.rejected).most_common()
            )
            path = self._job.out / "rejected.arrow"
            write_table(
                path,
                pa.Table.from_pylist(
                    [{"shard": self._job.name, **row} for row in self.rejected], REJECTED
                ),
            )
            raise BudgetError(
                f"{self._num_consecutive} consecutive samples of {self._job.name} were rejected,"
                f" and max_rejected_in_a_row is {limit} (rejected so far: {counts})."
                f" The last one is {sample_id!r}: {error.rstrip('.')}",
                f"Fix the shard ({path} lists the rejected samples)"
                " or raise max_rejected_in_a_row.",
            )
