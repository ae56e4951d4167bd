"""The end of a decode job: samples, rejections and ids in the order of the shards, and the manifest last."""

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
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import Fingerprinter
from pipeline.storage.schemas import REJECTED, SPLITS, samples_schema
from pipeline.storage.store_path import MANIFEST, StorePath


class _Totals:
    """What the accounts of all shards come to, added up in the order of the shards."""

    def __init__(self, specs: dict[str, Any]) -> None:
        self.moments = {
            name: Moments.of(tuple(spec["shape"]), spec["dtype"]) for name, spec in specs.items()
        }
        self.splits, self.ignored = Counter[str](), Counter[str]()
        self.parts: list[dict[str, Any]] = []
        self.rejected: list[dict[str, str]] = []
        self.id_hashes: list[UInt64Array] = []
        self.num_rows = 0

    def add(self, job: ShardJob, account: dict[str, Any]) -> None:
        """Adds a shard."""
        self.id_hashes.append(hash_ids(account["samples"]["sample_id"]))
        self.num_rows += account["rows"]
        self.splits.update(account["samples"]["split"])
        self.moments = {
            name: sums + Moments(**account["moments"][name]) for name, sums in self.moments.items()
        }
        self.rejected += rejected_rows(job, account)
        self.ignored.update(account["ignored"])
        part = {key: account[key] for key in ("rows", "files", "account")}
        self.parts.append({"index": job.index, "shard": job.name, **part})

    def check(self) -> None:
        """Raises DataError where nothing is left of a modality or of the training split."""
        for name, sums in self.moments.items():
            if not sums.num_present:
                raise DataError(
                    f"no sample has the modality {name!r}: its member holds no such stream",
                    f"correct modalities.{name}, or leave it out",
                )
        if not self.splits["train"]:
            raise DataError(
                "the split 'train' is empty: all of its samples were rejected "
                f"({len(self.rejected)} in all)",
                "mend the shards",
            )


def finish(
    out: StorePath,
    jobs: Sequence[ShardJob],
    config: DecodeConfig,
    classes: Sequence[str],
    specs: dict[str, Any],
    parents: dict[str, str],
) -> dict[str, Any]:
    """Writes samples.arrow, rejected.arrow and ids.arrow from the accounts, then the manifest."""
    schema, totals = samples_schema(list(specs)), _Totals(specs)
    content = Fingerprinter(schema)
    numbers = {label: i for i, label in enumerate(classes)}
    with (
        (out / "samples.arrow").create() as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for job in jobs:
            account = job.account.read_json()
            batch = _samples(account, job.name, totals.num_rows, numbers, list(specs))
            writer.write_batch(batch)
            content.update(batch)
            totals.add(job, account)
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
        "limits": config.limits.model_dump(mode="json"),
        "batch_rows": BATCH_ROWS,
        "parts": totals.parts,
        "parents": parents,
    }
    manifest["fingerprint"] = features_fingerprint(manifest, content.hexdigest({}))
    (out / MANIFEST).write_json(manifest)
    return manifest


def rejected_rows(job: ShardJob, account: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of rejected.arrow that the account of a shard has."""
    return [{"shard": job.name, **row} for row in account["rejected"]]


def _samples(
    account: dict[str, Any],
    shard: str,
    start: int,
    numbers: dict[str, int],
    modalities: Sequence[str],
) -> pa.RecordBatch:
    columns, num = account["samples"], account["rows"]
    values = {
        **columns,
        "row": list(range(start, start + num)),
        "label": [numbers[label] for label in columns["label"]],
        "shard": [shard] * num,
    }
    schema = samples_schema(modalities)
    return pa.RecordBatch.from_pydict({name: values[name] for name in schema.names}, schema)
