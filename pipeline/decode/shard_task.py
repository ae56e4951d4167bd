"""Decodes one shard into one part per modality and an account, in one pass over the shard.

Independent of Ray, and of the media libraries, which run in the sandbox. The account is written
last: parts whose account fits the shard and the configuration are complete, and a rerun reuses
them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.decode.account import (
    account_path,
    account_table,
    read_record,
    rejected_rows,
    write_account,
)
from pipeline.decode.config import DecodeConfig
from pipeline.decode.reuse import equals_recorded, lowered_limits, outdated_reasons
from pipeline.decode.sandbox.sandbox import Sandbox, sandbox_for
from pipeline.decode.shard_rows import ShardRows
from pipeline.decode.tokenizer import tokenizer_paths
from pipeline.errors import BudgetError, DataError, StoreError
from pipeline.features.part_writer import part_name
from pipeline.shards.discover import ShardFile
from pipeline.shards.reader import ShardReader
from pipeline.shards.source import ShardSource, version_of
from pipeline.storage.arrow_files import write_table
from pipeline.storage.store_path import StorePath

VERSION = 3
"""Version of the decoded output; increased if the same shard and configuration decode differently.

Parts and feature sets of another version are not reused.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """Task to decode one shard into the parts number `index` of the feature set `out`.

    Attributes:
        verify: hash the shard again before its parts are reused.
    """

    source: ShardSource
    index: int
    out: StorePath
    config: DecodeConfig
    verify: bool = False

    @property
    def path(self) -> StorePath:
        """Path of the account."""
        return account_path(self.out, self.index)

    @property
    def provenance(self) -> dict[str, Any]:
        """Fields of the record that identify the shard and the decoder version."""
        return {"version": VERSION, "shard": self.source.name, "source": source_entry(self.source)}

    @property
    def settings(self) -> dict[str, Any]:
        """Field `decoding` of the record: modality specs, in order, limits and rules."""
        specs = self.config.modalities.items()
        return {
            "modalities": [[name, spec.model_dump(mode="json")] for name, spec in specs],
            "limits": self.config.limits.model_dump(mode="json"),
            "sample": self.config.sample.model_dump(mode="json", exclude_defaults=True),
        }

    def reproduces(self, record: dict[str, Any]) -> bool:
        """Return whether this job would produce the same parts as the recorded job."""
        if any(record.get(key) != value for key, value in self.provenance.items()):
            return False
        specs, limits = self.config.modalities, self.config.limits
        settings = record["decoding"]
        recorded_specs, recorded_limits = settings["modalities"], settings["limits"]
        return (
            settings["sample"] == self.settings["sample"]
            and [name for name, _ in recorded_specs] == list(specs)
            and all(equals_recorded(specs[name], spec) for name, spec in recorded_specs)
            and not lowered_limits(limits, recorded_limits)
            and outdated_reasons(limits, recorded_limits).isdisjoint(record["rejected"])
        )


class _NonContiguousError(Exception):
    """The samples of the shard are not contiguous; `runs` is ShardReader.non_contiguous."""

    def __init__(self, runs: dict[str, int]) -> None:
        super().__init__()
        self.runs = runs


def source_entry(source: ShardSource) -> dict[str, Any]:
    """Size and version of a shard, as records and manifests have them."""
    return {"bytes": source.num_bytes, "version": source.version}


def shard_digest(source: ShardSource, config: DecodeConfig) -> str:
    """Content digest of a shard. Raises MissingError, StoreError."""
    with ShardFile(source.path) as file:
        reader = ShardReader(file, load=lambda suffix: False, **config.reading.options)
        for _ in reader:
            pass
        return reader.digest


def decode_shard(job: ShardJob) -> dict[str, Any]:
    """Decode a shard into its parts, or reuse them if they are complete.

    Returns:
        The record of the account, with `reused`: whether the parts already existed.
    Raises:
        DataError: a split or label is unknown. BudgetError: too many consecutive samples were
        rejected. StoreError: the shard changed while it was read.
    """
    existing = _matching_record(job)
    if existing and (not job.verify or shard_digest(job.source, job.config) == existing["digest"]):
        return {**existing, "reused": True}
    # An old account must not describe parts that are being rewritten.
    job.path.delete()
    tokenizers = [path.read_bytes().decode() for path in tokenizer_paths(job.out, job.config)]
    sandbox = sandbox_for(job.config.modalities, job.config.limits, tokenizers)
    try:
        rows, reader = _decode(job, sandbox, None)
    except _NonContiguousError as error:
        rows, reader = _decode(job, sandbox, error.runs)
    labels = {label for label in rows.account["label"] if label is not None}
    record = {
        **job.provenance,
        "decoding": job.settings,
        "digest": reader.digest,
        "account": asdict(reader.accounting),
        "labels": sorted(labels),
        **rows.record,
    }
    write_account(job.path, record, account_table(rows.account))
    return {**record, "reused": False}


def _matching_record(job: ShardJob) -> dict[str, Any] | None:
    """Return the record if it matches the job and its parts are complete."""
    record = read_record(job.path)
    is_complete = (
        record is not None
        and job.reproduces(record)
        and all(
            (job.out / name / part_name(job.index)).info().size == file["bytes"]
            for name, file in record["files"].items()
        )
    )
    return record if is_complete else None


def _decode(
    job: ShardJob, sandbox: Sandbox, non_contiguous: Mapping[str, int] | None
) -> tuple[ShardRows, ShardReader]:
    """Decode a shard into parts.

    Args:
        job: the job.
        sandbox: decodes members.
        non_contiguous: number of runs of non-contiguous samples, None if not known yet.
    Raises:
        _NonContiguousError: there are such samples; nothing was written.
    """
    needed = job.config.reading.loaded
    rows = ShardRows(job.source.name, job.config, sandbox)
    with ShardFile(job.source.path) as file, rows.open_parts(job.out, job.index):
        reader = ShardReader(
            file,
            load=lambda suffix: suffix in needed,
            non_contiguous=non_contiguous,
            **job.config.reading.options,
        )
        items = iter(reader)
        problem: BudgetError | DataError | None = None
        try:
            for item in items:
                rows.add(item, reader)
                if non_contiguous is None and reader.is_non_contiguous:
                    break
        except (BudgetError, DataError) as error:
            problem = error
        if non_contiguous is None:
            for _ in items:  # a sample was incomplete if the rest of it follows
                pass
            if reader.non_contiguous:
                raise _NonContiguousError(reader.non_contiguous)
        if problem:
            if isinstance(problem, BudgetError):
                rejected = rejected_rows(job.source.name, account_table(rows.account))
                write_table(job.out / "rejected.arrow", rejected)
            raise problem
        rows.ignore(reader.strays)
        if version_of(job.source.path) != (job.source.num_bytes, job.source.version):
            raise StoreError(
                f"Shard changed while it was read: {job.source.path}",
                "Run the command again after the shard has been written.",
            )
    return rows, reader
