"""Last step of a decode job: writes the sample, rejection and id tables, then the manifest."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.arrays import UInt64Array
from pipeline.decode.config import DecodeConfig
from pipeline.decode.moments import Moments
from pipeline.decode.shard_task import VERSION, ShardJob
from pipeline.errors import DataError
from pipeline.features.id_index import IDS, hash_ids, write_ids
from pipeline.features.manifest import features_fingerprint
from pipeline.features.part_writer import BATCH_ROWS
from pipeline.shards.member_formats import MislabelledCounts
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import Fingerprinter
from pipeline.storage.schemas import REJECTED, SPLITS, samples_schema
from pipeline.storage.store_path import MANIFEST, StorePath


class _Totals:
    """Totals over the decode records of all shards, added in shard order."""

    def __init__(self, specs: dict[str, Any]) -> None:
        self.moments = {
            name: Moments.of(tuple(spec["shape"]), spec["dtype"]) for name, spec in specs.items()
        }
        self.splits, self.ignored, self.unread = Counter[str](), Counter[str](), Counter[str]()
        self.mislabelled = MislabelledCounts()
        self.parts: list[dict[str, Any]] = []
        self.rejected: list[dict[str, str]] = []
        self.id_hashes: list[UInt64Array] = []
        self.num_rows = 0

    def add(self, job: ShardJob, record: dict[str, Any]) -> None:
        """Add the decode record of a shard."""
        self.id_hashes.append(hash_ids(record["samples"]["sample_id"]))
        self.num_rows += record["rows"]
        self.splits.update(record["samples"]["split"])
        self.mislabelled.merge(record["mislabelled"])
        self.moments = {
            name: sums + Moments(**record["moments"][name]) for name, sums in self.moments.items()
        }
        self.rejected += rejected_rows(job, record)
        self.ignored.update(record["ignored"])
        self.unread.update(record["unread"])
        part = {key: record[key] for key in ("rows", "files", "account")}
        self.parts.append({"index": job.index, "shard": job.name, **part})

    def check(self) -> None:
        """Raise DataError if no row has one of the modalities or none is in the training split."""
        for name, sums in self.moments.items():
            if not sums.num_present:
                raise DataError(
                    f"No sample has modality {name!r}: the members contain no such stream",
                    f"Correct or remove modalities.{name}.",
                )
        if not self.splits["train"]:
            raise DataError(
                "Split 'train' is empty: all of its samples were rejected "
                f"({len(self.rejected)} rejected in total)",
                "Fix the shards.",
            )


def finish(
    out: StorePath,
    jobs: Sequence[ShardJob],
    config: DecodeConfig,
    classes: Sequence[str],
    specs: dict[str, Any],
    parents: dict[str, str],
) -> dict[str, Any]:
    """Write samples.arrow, rejected.arrow, ids.arrow and finally the manifest, which is returned.

    Raises DataError if no row has one of the modalities or none is in the training split.
    """
    schema, totals = samples_schema(list(specs)), _Totals(specs)
    content = Fingerprinter(schema)
    class_numbers = {label: i for i, label in enumerate(classes)}
    with (
        (out / "samples.arrow").create() as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for job in jobs:
            record = job.record_path.read_json()
            batch = _samples(record, job.name, totals.num_rows, class_numbers, list(specs))
            writer.write_batch(batch)
            content.update(batch)
            totals.add(job, record)
    totals.check()
    write_table(out / "rejected.arrow", pa.Table.from_pylist(totals.rejected, REJECTED))
    write_ids(out / IDS, totals.id_hashes)
    manifest: dict[str, Any] = {
        "kind": "features",
        "version": VERSION,
        "modalities": {
            name: {**spec, **sums.summary(), "num_rows": sums.num_present}
            for (name, spec), sums in zip(specs.items(), totals.moments.values(), strict=True)
        },
        "classes": list(classes),
        "splits": {split: totals.splits[split] for split in SPLITS},
        "num_rows": totals.num_rows,
        "num_rejected": len(totals.rejected),
        "reasons": dict(Counter(row["reason"] for row in totals.rejected).most_common()),
        "ignored": dict(totals.ignored.most_common()),
        "mislabelled": totals.mislabelled.by_suffix,
        "unread": dict(totals.unread.most_common()),
        "sample": config.sample.model_dump(mode="json", exclude_defaults=True),
        "limits": config.limits.model_dump(mode="json"),
        "batch_rows": BATCH_ROWS,
        "parts": totals.parts,
        "parents": parents,
    }
    manifest["fingerprint"] = features_fingerprint(manifest, content.hexdigest({}))
    (out / MANIFEST).write_json(manifest)
    return manifest


def rejected_rows(job: ShardJob, record: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of rejected.arrow for the decode record of a shard."""
    return [{"shard": job.name, **row} for row in record["rejected"]]


def _samples(
    record: dict[str, Any],
    shard: str,
    start: int,
    class_numbers: dict[str, int],
    modalities: Sequence[str],
) -> pa.RecordBatch:
    columns, num = record["samples"], record["rows"]
    values = {
        **columns,
        "row": list(range(start, start + num)),
        "label": [class_numbers[label] for label in columns["label"]],
        "shard": [shard] * num,
    }
    schema = samples_schema(modalities)
    return pa.RecordBatch.from_pydict({name: values[name] for name in schema.names}, schema)
