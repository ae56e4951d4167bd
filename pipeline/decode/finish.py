"""Last step of a decode job: writes the sample, rejection and id tables, then the manifest.

The accounts of the shards are read once, one by one, so that the memory does not depend on the
number of samples; what concerns all samples is checked here.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Array, Int64Array
from pipeline.decode.account import FOLDER, Account, account_path, read_account, rejected_rows
from pipeline.decode.config import DecodeConfig
from pipeline.decode.moments import Moments
from pipeline.decode.problems import (
    check_members,
    check_unread,
    duplicate_id,
    location,
    no_training_samples,
    unknown_label,
)
from pipeline.decode.shard_task import VERSION, source_entry
from pipeline.errors import DataError
from pipeline.features.gaps import Coverage
from pipeline.features.id_index import IDS, IdSorter, write_ids
from pipeline.features.manifest import features_fingerprint
from pipeline.features.part_writer import BATCH_ROWS
from pipeline.shards.member_formats import MislabelledCounts
from pipeline.shards.source import ShardSource
from pipeline.storage.arrow_files import TABLE_ROWS
from pipeline.storage.metadata import Fingerprinter, fingerprint_of
from pipeline.storage.prefetch import prefetched
from pipeline.storage.schemas import REJECTED, SPLITS, samples_schema
from pipeline.storage.store_path import MANIFEST, StorePath, unwritable


class _Totals:
    """Totals over the records of all shards, added in shard order."""

    def __init__(self, specs: dict[str, Any]) -> None:
        self.moments = {
            name: Moments.of(tuple(spec["shape"]), spec["dtype"]) for name, spec in specs.items()
        }
        self.splits, self.ignored, self.reasons = Counter[str](), Counter[str](), Counter[str]()
        self.suffixes, self.decoded_suffixes = Counter[str](), Counter[str]()
        self.unread_streams = Counter[str]()
        self.mislabelled = MislabelledCounts()
        self.parts: list[dict[str, Any]] = []
        self.num_rows = 0
        self.num_train = 0  # of the training split, rejected ones included

    def add(self, source: ShardSource, account: Account) -> None:
        """Add the account of a shard."""
        record = account.record
        self.num_rows += record["rows"]
        self.num_train += pc.sum(pc.equal(account.rows["split"], "train")).as_py() or 0
        decoded = account.rows.filter(pc.is_null(account.rows["reason"]))
        counts = decoded["split"].value_counts()
        self.splits.update({each["values"]: each["counts"] for each in counts.to_pylist()})
        self.mislabelled.merge(record["mislabelled"])
        self.moments = {
            name: sums + Moments(**record["moments"][name]) for name, sums in self.moments.items()
        }
        self.ignored.update(record["ignored"])
        self.reasons.update(record["rejected"])
        self.suffixes.update(record["suffixes"])
        self.decoded_suffixes.update(record["decoded_suffixes"])
        self.unread_streams.update(record["unread_streams"])
        self.parts.append(
            {
                "index": len(self.parts),
                "shard": source.name,
                "source": {**source_entry(source), "digest": record["digest"]},
                "rows": record["rows"],
                "files": record["files"],
                "account": {**record["account"], "rejected": record["rejected"]},
            }
        )

    def check(self, config: DecodeConfig) -> None:
        """Raise InputError if no row has one of the modalities, none is in the training split, or
        too many media are not read."""
        if not self.num_train:
            raise no_training_samples()
        check_members(config.modalities, self.suffixes)
        check_unread(config, self.suffixes)
        for name, sums in self.moments.items():
            if not sums.num_present:
                raise DataError(
                    f"No sample has modality {name!r}: the members contain no such stream",
                    f"Correct or remove modalities.{name}.",
                )
        if not self.splits["train"]:
            raise DataError(
                "Split 'train' is empty: all of its samples were rejected "
                f"({self.reasons.total()} rejected in total)",
                "Fix the shards.",
            )

    def unread(self, config: DecodeConfig) -> dict[str, int]:
        """Number of media that no modality reads, by suffix, and of streams of clips, by kind."""
        unread = Counter(config.reading.unread(self.decoded_suffixes))
        return dict((unread + self.unread_streams).most_common())


def finish(
    out: StorePath,
    sources: Sequence[ShardSource],
    config: DecodeConfig,
    classes: Sequence[str],
    specs: dict[str, Any],
    num_samples: int,
) -> tuple[dict[str, Any], list[str]]:
    """Write samples.arrow, rejected.arrow, ids.arrow and finally the manifest.

    Args:
        out: the feature set.
        sources: its shards, all of them decoded.
        config: modalities, and which samples are valid.
        classes: names of the classes.
        specs: entries of the modalities for the manifest.
        num_samples: number of decoded and rejected samples.
    Returns:
        The manifest, and what the feature set lacks, as sentences.
    Raises:
        InputError: the samples contradict each other or the configuration. StoreError.
    """
    schema, totals = samples_schema(list(specs)), _Totals(specs)
    content, coverage = Fingerprinter(schema), Coverage(list(specs), classes)
    with ExitStack() as stack:
        samples_file, rejected_file = (
            stack.enter_context(
                pa.ipc.new_file(stack.enter_context((out / name).create()), columns)
            )
            for name, columns in (("samples.arrow", schema), ("rejected.arrow", REJECTED))
        )
        try:
            ids = stack.enter_context(_Ids(out, sources, num_samples))
            for source, account in zip(sources, _accounts(out, len(sources)), strict=True):
                samples = _samples(source.name, account.rows, totals.num_rows, classes, schema)
                samples_file.write_table(samples, max_chunksize=TABLE_ROWS)
                rejected = rejected_rows(source.name, account.rows)
                rejected_file.write_table(rejected, max_chunksize=TABLE_ROWS)
                for batch in samples.to_batches():
                    content.update(batch)
                _cover(coverage, samples)
                ids.add(account.rows, totals.num_rows)
                totals.add(source, account)
            totals.check(config)
            write_ids(out / IDS, ids.unique())
        except OSError as error:
            raise unwritable(out / IDS, error) from error
    manifest = _manifest(totals, config, classes, specs)
    manifest["fingerprint"] = features_fingerprint(manifest, content.hexdigest({}))
    (out / MANIFEST).write_json(manifest)
    return manifest, coverage.gaps()


def _accounts(out: StorePath, num: int) -> Iterator[Account]:
    return prefetched(lambda index: read_account(account_path(out, index)), range(num))


def write_rejected(out: StorePath, sources: Sequence[ShardSource]) -> StorePath:
    """Write the rejected samples of the shards decoded so far; returns the path of the table."""
    path = out / "rejected.arrow"
    with path.create() as file, pa.ipc.new_file(file, REJECTED) as writer:
        for index, source in enumerate(sources):
            account = account_path(out, index)
            if account.exists():
                rejected = rejected_rows(source.name, read_account(account).rows)
                writer.write_table(rejected, max_chunksize=TABLE_ROWS)
    return path


def _samples(
    shard: str, rows: pa.Table, start: int, classes: Sequence[str], schema: pa.Schema
) -> pa.Table:
    """Rows of samples.arrow for the rows of an account, the first of which has number `start`.

    Raises DataError if a label is not a class.
    """
    numbers = pc.index_in(rows["label"], value_set=pa.array(classes, pa.string()))
    unknown = rows.filter(pc.and_(pc.is_null(numbers), pc.is_valid(rows["label"])))
    for row in unknown.slice(0, 1).to_pylist():
        place = location(shard, row["index"], row["sample_id"])
        raise unknown_label(row["label"], classes, place)
    is_row = pc.is_null(rows["reason"])
    columns = {
        **dict(zip(rows.column_names, rows.filter(is_row).columns, strict=True)),
        "label": numbers.filter(is_row),
    }
    num = len(columns["label"])
    columns |= {
        "row": pa.array(np.arange(start, start + num)),
        "shard": pa.array([shard] * num, pa.string()),
        "index_in_shard": columns["index"],
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _cover(coverage: Coverage, samples: pa.Table) -> None:
    names = [name for name in samples.column_names if name.startswith("has_")]
    for split in SPLITS:
        rows = samples.filter(pc.equal(samples["split"], split))
        has = np.stack([rows[name].to_numpy() for name in names], axis=1)
        coverage.add(split, rows["label"].to_numpy(), has)


class _Ids:
    """Ids of the samples of all shards, with those of rejected samples; a context manager."""

    def __init__(self, out: StorePath, sources: Sequence[ShardSource], num_samples: int) -> None:
        self._out, self._sources = out, sources
        self._sorter = IdSorter(num_samples, (out / FOLDER).local)
        self._ends: list[int] = []

    def __enter__(self) -> "_Ids":
        self._sorter.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._sorter.__exit__()

    def add(self, rows: pa.Table, start: int) -> None:
        """Add the rows of the next account, the first of which has number `start`."""
        rows = _with_metadata(rows)
        is_row = pc.is_null(rows["reason"]).to_numpy()
        numbers = np.where(is_row, start + np.cumsum(is_row) - 1, -1)
        self._sorter.add(rows["id_hash"].to_numpy(), numbers)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(numbers))

    def unique(self) -> Iterator[Array]:
        """The blocks of the sorted ids. Raises DataError if two samples have the same id."""
        for block in self._sorter.blocks():
            hashes = block["hash"]
            again = np.flatnonzero(hashes[1:] == hashes[:-1])
            for value in np.unique(hashes[again]):
                self._check(block["position"][hashes == value])
            yield block

    def _check(self, positions: Int64Array) -> None:
        """Compare the ids of samples with the same hash."""
        places: dict[str, str] = {}
        for position in positions.tolist():
            shard = bisect_right(self._ends, position)
            rows = _with_metadata(read_account(account_path(self._out, shard)).rows)
            number = position - (self._ends[shard - 1] if shard else 0)
            sample_id = rows["sample_id"][number].as_py()
            place = location(self._sources[shard].name, rows["index"][number].as_py(), sample_id)
            if sample_id in places:
                raise duplicate_id(sample_id, places[sample_id], place)
            places[sample_id] = place


def _with_metadata(rows: pa.Table) -> pa.Table:
    """The rows of an account whose metadata were read."""
    return rows.filter(pc.is_valid(rows["label"]))


def _manifest(
    totals: _Totals, config: DecodeConfig, classes: Sequence[str], specs: dict[str, Any]
) -> dict[str, Any]:
    """The manifest without its fingerprint."""
    digests = [[part["shard"], part["source"]["digest"]] for part in totals.parts]
    return {
        "kind": "features",
        "version": VERSION,
        "modalities": {
            name: {**spec, **sums.summary(), "num_rows": sums.num_present}
            for (name, spec), sums in zip(specs.items(), totals.moments.values(), strict=True)
        },
        "classes": list(classes),
        "splits": {split: totals.splits[split] for split in SPLITS},
        "num_rows": totals.num_rows,
        "num_rejected": totals.reasons.total(),
        "reasons": dict(totals.reasons.most_common()),
        "ignored": dict(totals.ignored.most_common()),
        "mislabelled": totals.mislabelled.by_suffix,
        "unread": totals.unread(config),
        "sample": config.sample.model_dump(mode="json", exclude_defaults=True),
        "limits": config.limits.model_dump(mode="json"),
        "batch_rows": BATCH_ROWS,
        "parts": totals.parts,
        "parents": {"shards": fingerprint_of(digests)},
    }
