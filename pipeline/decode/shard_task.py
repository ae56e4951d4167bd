"""One shard -> one part per modality and an account of it; no Ray, so it runs anywhere, and no media library: a sandbox decodes.

The account is written last. A part whose account fits shard and configuration is finished, and a rerun skips it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline.decode.config import DecodeConfig
from pipeline.decode.media.shapes import shape_of
from pipeline.decode.moments import Moments
from pipeline.decode.reuse import lifted, lowered, same
from pipeline.decode.sandbox.sandbox import Sandbox, sandbox_for
from pipeline.errors import REASONS, BudgetError, SampleError, StoreError
from pipeline.features.part_writer import BATCH_ROWS, PartWriter, part_name
from pipeline.shards.discover import ShardFile
from pipeline.shards.reader import ShardReader, only_text, read_twice
from pipeline.shards.sample_metadata import parse_metadata
from pipeline.shards.samples import RejectedSample, Sample
from pipeline.storage.arrow_files import write_table
from pipeline.storage.atomic_files import HashingFile
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import StorePath

VERSION = 3
"""Of what decoding makes of the same shard and configuration; parts and feature sets of another version are not reused."""

_SCANNED = pa.schema(
    [
        ("index", pa.int64()),
        ("sample_id", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ShardScan:
    """What a shard holds, without its media: index, sample_id, label and split of each sample, its suffixes, what was lost, and what lies apart."""

    name: str
    digest: str
    columns: dict[str, list[Any]]
    suffixes: dict[str, int]
    num_lost: int
    losses: list[str]
    torn: dict[str, int]

    @cached_property
    def samples(self) -> pa.Table:
        """The columns as a table."""
        return pa.table(self.columns, _SCANNED)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """One shard to turn into the parts of this index below `out`."""

    shard: StorePath
    name: str
    digest: str
    torn: Mapping[str, int]
    index: int
    out: StorePath
    config: DecodeConfig

    @property
    def account(self) -> StorePath:
        """Where the account of the parts lies."""
        return self.out / ".parts" / f"part-{self.index:05d}.json"

    @property
    def identity(self) -> dict[str, Any]:
        """What is decoded, and by which decoder, for the account of the parts."""
        return {"version": VERSION, "shard": self.name, "digest": self.digest}

    @property
    def decoding(self) -> dict[str, Any]:
        """How it is decoded, for the account of the parts."""
        specs = self.config.modalities.items()
        return {
            "modalities": [[name, spec.model_dump(mode="json")] for name, spec in specs],
            "limits": self.config.limits.model_dump(mode="json"),
        }

    def makes(self, account: dict[str, Any]) -> bool:
        """Whether this job would make the parts of an account again as they are."""
        specs, limits = self.config.modalities, self.config.limits
        was = account.get("decoding")  # older releases recorded a hash in its place
        if was is None or any(account[key] != value for key, value in self.identity.items()):
            return False
        return (
            [name for name, _ in was["modalities"]] == list(specs)
            and all(same(specs[name], spec) for name, spec in was["modalities"])
            and not lowered(limits, was["limits"])
            and lifted(limits, was["limits"]).isdisjoint(account["account"]["rejected"])
        )


def scan_shard(shard: StorePath, name: str, config: DecodeConfig) -> ShardScan:
    """Reads a shard without decoding its media (raises StoreError, MissingError)."""
    scan, reader = read_twice(
        shard,
        lambda reader: _Scan(reader, name),
        load=only_text,
        limits=config.limits,
        known=config.members,
    )
    return ShardScan(
        name=name,
        digest=reader.digest,
        columns=scan.columns,
        suffixes=dict(scan.suffixes),
        num_lost=scan.num_lost,
        losses=scan.losses,
        torn=reader.non_contiguous,
    )


class _Scan:
    """What the samples of a shard say of themselves, and of what is lost the number and the first few."""

    def __init__(self, reader: ShardReader, name: str) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in _SCANNED.names}
        self.suffixes: Counter[str] = Counter()
        self.num_lost = 0
        self.losses: list[str] = []
        for item in reader:
            if isinstance(item, RejectedSample):
                self._lose(f"{item.reason}: {item.error}")
                continue
            self.suffixes.update(item.suffixes)
            try:
                row = {"index": item.index, **asdict(parse_metadata(item, name))}
            except SampleError as error:
                self._lose(str(error))
                continue
            for column, value in row.items():
                self.columns[column].append(value)

    def _lose(self, text: str) -> None:
        self.num_lost += 1
        if len(self.losses) < 3:
            self.losses.append(text)


def ingest(job: ShardJob) -> dict[str, Any]:
    """Makes the parts of a shard, or finds them finished; returns their account (raises StoreError where the shard changed meanwhile)."""
    done = _finished(job)
    if done:
        return {**done, "reused": True}
    # the parts are about to change: an older account must not speak for them
    job.account.delete()
    rows = _Rows(job, sandbox_for(job.config.modalities, job.config.limits))
    wanted = job.config.members
    with ShardFile(job.shard) as file, rows.open_parts():
        reader = ShardReader(
            file,
            load=lambda suffix: suffix in wanted or only_text(suffix),
            limits=job.config.limits,
            known=wanted,
            non_contiguous=job.torn,
        )
        for item in reader:
            rows.add(item)
        if reader.digest != job.digest:
            raise StoreError(
                f"shard {job.shard} changed while it was read",
                "run the command again when nobody writes the shard",
            )
    account = {
        **job.identity,
        "decoding": job.decoding,
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
        "rejected": rows.rejected,
        "samples": rows.columns,
    }
    job.account.write_json(account)
    return {**account, "reused": False}


def _finished(job: ShardJob) -> dict[str, Any] | None:
    if not job.account.exists():
        return None
    account = job.account.read_json()
    whole = job.makes(account) and all(
        (job.out / name / part_name(job.index)).info().size == file["bytes"]
        for name, file in account["files"].items()
    )
    return account if whole else None


class _Rows:
    """The growing parts of one shard, with the columns and the moments of their rows."""

    def __init__(self, job: ShardJob, sandbox: Sandbox) -> None:
        self._job = job
        self._sandbox = sandbox
        self._wanted = job.config.members
        self._in_a_row = 0
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

    @contextlib.contextmanager
    def open_parts(self) -> Iterator[None]:
        """Opens one file per modality; all of them appear when the block ends well."""
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

    def add(self, item: Sample | RejectedSample) -> None:
        """Decodes a sample into a row, or rejects it (raises BudgetError where too many in a row are rejected)."""
        if isinstance(item, RejectedSample):
            self._reject(item.key, "shard", item.reason, item.error)
            return
        self.ignored.update(loss.member.rpartition(".")[2].lower() for loss in item.ignored)
        sample_id = item.key
        try:
            facts = parse_metadata(item, self._job.name)
            sample_id = facts.sample_id
            arrays = self._sandbox.decode(
                {suffix: data for suffix, data in item.members.items() if suffix in self._wanted}
            )
            if all(array is None for array in arrays.values()):
                raise SampleError(
                    "missing_member",
                    f"none of the modalities {', '.join(arrays)} among {', '.join(sorted(item.suffixes))}",
                )
        except SampleError as error:
            self._reject(sample_id, "decode", error.reason, error.detail)
            return
        self._in_a_row = 0
        for name, array in arrays.items():
            self._writers[name].append(array)
            self.columns[f"has_{name}"].append(array is not None)
            if array is not None:
                self.moments[name].add(array, facts.split == "train")
        for column, value in (
            ("sample_id", facts.sample_id),
            ("label", facts.label),
            ("split", facts.split),
            ("index_in_shard", item.index),
        ):
            self.columns[column].append(value)

    def _reject(self, sample_id: str, stage: str, reason: str, error: str) -> None:
        assert reason in REASONS, reason
        self.rejected.append(
            {"sample_id": sample_id, "stage": stage, "reason": reason, "error": error}
        )
        self._in_a_row += 1
        limit = self._job.config.max_rejected_in_a_row
        if self._in_a_row > limit:
            what = ", ".join(
                f"{reason} {num}"
                for reason, num in Counter(row["reason"] for row in self.rejected).most_common()
            )
            where = self._job.out / "rejected.arrow"
            write_table(
                where,
                pa.Table.from_pylist(
                    [{"shard": self._job.name, **row} for row in self.rejected], REJECTED
                ),
            )
            raise BudgetError(
                f"{self._job.name}: {self._in_a_row} samples rejected in a row, more than max_rejected_in_a_row {limit} ({what});"
                f" the last, {sample_id!r}: {error}",
                f"mend the shard ({where} names each sample so far), or raise max_rejected_in_a_row",
            )
