"""Rows of one shard while it is decoded: part files, account, moments and counts."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from pipeline.decode.account import account_schema
from pipeline.decode.config import DecodeConfig
from pipeline.decode.media.shapes import shape_of
from pipeline.decode.moments import Moments
from pipeline.decode.problems import check_metadata
from pipeline.decode.sandbox.sandbox import Sandbox
from pipeline.errors import REASONS, BudgetError, SampleError
from pipeline.features.part_writer import BATCH_ROWS, PartWriter, part_name
from pipeline.shards.member_formats import MislabelledCounts
from pipeline.shards.reader import ShardReader
from pipeline.shards.sample_metadata import SampleMetadata, parse_metadata
from pipeline.shards.samples import DamagedMember, RejectedSample, Sample
from pipeline.storage.atomic_files import HashingFile
from pipeline.storage.store_path import StorePath


class ShardRows:
    """Rows decoded so far from one shard, and rejected samples.

    Args:
        shard: name of the shard.
        config: modalities, rules and limits.
        sandbox: decodes members.
    """

    def __init__(self, shard: str, config: DecodeConfig, sandbox: Sandbox) -> None:
        self._shard = shard
        self._config = config
        self._sandbox = sandbox
        self._specs, self._decoded = config.modalities, config.members
        self._half_read = config.half_read
        self._classes = None if config.classes is None else frozenset(config.classes)
        self._num_consecutive = 0
        self._writers: dict[str, PartWriter] = {}
        self.files: dict[str, HashingFile] = {}
        self.moments = {
            name: Moments.of(*shape_of(name, spec)) for name, spec in self._specs.items()
        }
        self.num_rows = 0
        self.account: dict[str, list[Any]] = {
            name: [] for name in account_schema(list(self._specs)).names
        }
        self.reasons: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.mislabelled = MislabelledCounts()
        # number of members by suffix: in all samples, and in decoded ones
        self.suffixes: Counter[str] = Counter()
        self.decoded_suffixes: Counter[str] = Counter()
        self.unread_streams: Counter[str] = Counter()

    @contextlib.contextmanager
    def open_parts(self, out: StorePath, index: int) -> Iterator[None]:
        """Create one part file per modality; they become visible if the block succeeds."""
        with contextlib.ExitStack() as stack:
            for name, spec in self._specs.items():
                self.files[name] = stack.enter_context((out / name / part_name(index)).create())
                self._writers[name] = PartWriter(
                    self.files[name], *shape_of(name, spec), BATCH_ROWS
                )
            yield
            for writer in self._writers.values():
                writer.close()

    @property
    def record(self) -> dict[str, Any]:
        """The fields of the account's record that are about rows."""
        return {
            "rows": self.num_rows,
            "files": {
                name: {"sha256": file.hexdigest(), "bytes": file.num_bytes}
                for name, file in self.files.items()
            },
            "moments": {name: asdict(moments) for name, moments in self.moments.items()},
            "rejected": dict(self.reasons),
            "ignored": dict(self.ignored),
            "mislabelled": self.mislabelled.by_suffix,
            "suffixes": dict(self.suffixes),
            "decoded_suffixes": dict(self.decoded_suffixes),
            "unread_streams": dict(self.unread_streams),
        }

    def ignore(self, members: Iterable[DamagedMember]) -> None:
        """Count members that are left out, by the last part of their suffix."""
        self.ignored.update(
            member.member.rpartition("/")[2].rpartition(".")[2].lower() for member in members
        )

    def add(self, item: Sample | RejectedSample, reader: ShardReader) -> None:
        """Decode a sample into a row, or reject it, or ignore it if it is none.

        Raises DataError if its split or label is unknown, BudgetError if too many consecutive
        samples were rejected.
        """
        if isinstance(item, RejectedSample):
            self._reject({"sample_id": item.key}, "shard", item.reason, item.error)
            return
        self.ignore(item.ignored)
        try:
            metadata = parse_metadata(item, self._shard, self._config.sample)
        except SampleError as error:
            self.suffixes.update(item.suffixes)
            self._reject({"sample_id": item.key}, "decode", error.reason, error.detail)
            return
        if metadata is None:
            reader.ignore(item)
            self.ignored.update(suffix.rpartition(".")[2] for suffix in item.suffixes)
            return
        self.suffixes.update(item.suffixes)
        check_metadata(metadata, self._classes, self._shard, item.index)
        values = {**asdict(metadata), "index": item.index}
        try:
            self._decode(item, metadata, values)
        except SampleError as error:
            self._reject(values, "decode", error.reason, error.detail)

    def _decode(self, sample: Sample, metadata: SampleMetadata, values: dict[str, Any]) -> None:
        members = {
            suffix: data for suffix, data in sample.members.items() if suffix in self._decoded
        }
        arrays = self._sandbox.decode(members)
        if all(array is None for array in arrays.values()):
            raise SampleError(
                "missing_member",
                f"No content for any of the modalities {', '.join(arrays)}."
                f" The sample has {', '.join(sorted(sample.suffixes))}.",
            )
        unread = [
            f"{kind} of {suffix}"
            for suffix, kind in self._half_read.items()
            if suffix in members and kind in self._sandbox.probe(members[suffix], suffix)
        ]
        self._num_consecutive = 0
        self.decoded_suffixes.update(sample.suffixes)
        self.mislabelled.add(members)
        self.unread_streams.update(unread)
        for name, array in arrays.items():
            self._writers[name].append(array)
            if array is not None:
                self.moments[name].add(array, metadata.split == "train")
        self.num_rows += 1
        has = {f"has_{name}": array is not None for name, array in arrays.items()}
        self._append({**values, **has})

    def _append(self, values: dict[str, Any]) -> None:
        for name, column in self.account.items():
            column.append(values.get(name))

    def _reject(self, values: dict[str, Any], stage: str, reason: str, error: str) -> None:
        assert reason in REASONS, reason
        self._append({**values, "stage": stage, "reason": reason, "error": error})
        self.reasons[reason] += 1
        self._num_consecutive += 1
        limit = self._config.max_rejected_in_a_row
        if self._num_consecutive > limit:
            counts = ", ".join(f"{reason} {num}" for reason, num in self.reasons.most_common())
            raise BudgetError(
                f"{self._num_consecutive} consecutive samples of {self._shard} were rejected,"
                f" and max_rejected_in_a_row is {limit} (rejected so far: {counts})."
                f" The last one is {values['sample_id']!r}: {error.rstrip('.')}",
                "Fix the shard (rejected.arrow lists the rejected samples) or raise"
                " max_rejected_in_a_row.",
            )
