"""Decode jobs on Ray Data: one task per shard, then the manifest."""

import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
import ray.data

from pipeline import errors
from pipeline.decode.config import DecodeConfig
from pipeline.decode.finish import finish, rejected_rows
from pipeline.decode.media.shapes import shape_of
from pipeline.decode.preflight import check
from pipeline.decode.reuse import equals_recorded, lowered_limits, outdated_reasons
from pipeline.decode.shard_task import VERSION, ShardJob, ShardScan, decode_shard, scan_shard
from pipeline.decode.summary import DecodeSummary, Progress, summary_of
from pipeline.decode.tokenizer import TextTokenizer, resolve_tokenizers, tokenizer_paths
from pipeline.errors import BudgetError, MismatchError, RemixError, StoreError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.gaps import gaps
from pipeline.ray_cluster import connect, require_resources
from pipeline.shards.discover import shard_names
from pipeline.storage.arrow_files import write_table
from pipeline.storage.metadata import fingerprint_of
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import MANIFEST, StorePath


def decode(
    shards: Sequence[StorePath],
    out: StorePath,
    config: DecodeConfig,
    *,
    inferred: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
    address: str | None = None,
    num_cpus: int | None = None,
    concurrency: int | None = None,
    resources: Mapping[str, float] | None = None,
) -> DecodeSummary:
    """Decode shards into the feature set `out`, reusing parts that are already decoded.

    Args:
        shards: the shards, in the order of the rows.
        out: folder of the feature set.
        config: modalities, classes and limits.
        inferred: what was inferred of the configuration, for the notes.
        progress: called after each shard that was scanned or decoded.
        address: address of the Ray cluster; by default Ray is started locally.
        num_cpus: number of CPUs of a local Ray.
        concurrency: maximum number of concurrent tasks; each uses one CPU.
        resources: Ray custom resources per task, which restrict decoding to nodes that have them.
    Raises:
        InputError: the shards or the configuration are invalid; nothing was written.
        BudgetError: more samples were rejected than the configuration allows.
    """
    connect(address, num_cpus)
    require_resources("decode tasks", 1, 0, resources)
    report = progress or (lambda _: None)
    config, tokenizers = resolve_tokenizers(config)
    options = {"concurrency": concurrency, "resources": dict(resources or {})}
    scans = _scan(shards, shard_names(shards), config, report, options)
    parents = {"shards": fingerprint_of([[scan.name, scan.digest] for scan in scans])}
    classes = check(scans, config)
    specs = _manifest_specs(config, tokenizers)
    existing = _complete_manifest(out, scans, parents, config, classes)
    if existing:
        notes = [*inferred, *gaps(FeatureSet.open(out))]
        return summary_of(existing, num_reused=len(shards), unchanged=True, notes=notes)
    with (out / ".parts" / ".lock").held(f"{out} is being decoded") as dead_owner:
        _prepare(out, specs)
        for path, tokenizer in zip(tokenizer_paths(out, config), tokenizers.values(), strict=True):
            path.write_bytes(tokenizer.text.encode())
        jobs = [
            ShardJob(
                shard=shard,
                name=scan.name,
                digest=scan.digest,
                non_contiguous=scan.non_contiguous,
                index=i,
                out=out,
                config=config,
            )
            for i, (shard, scan) in enumerate(zip(shards, scans, strict=True))
        ]
        num_reused = _decode_shards(jobs, scans, config, report, options)
        manifest = finish(out, jobs, config, classes, specs, parents)
    notes = [*inferred, *gaps(FeatureSet.open(out))]
    if dead_owner:
        notes.append(f"took over from {dead_owner}, which ended unexpectedly")
    return summary_of(manifest, num_reused=num_reused, unchanged=False, notes=notes)


def _prepare(out: StorePath, specs: Mapping[str, Any]) -> None:
    """Remove unfinished files and the manifest, and write the marker."""
    for folder in (out, out / ".parts", *(out / name for name in specs)):
        folder.sweep()
    # Without a manifest, nobody reads the feature set while its parts are rewritten.
    (out / MANIFEST).delete()
    _marker(out).write_bytes(b"")


def _manifest_specs(
    config: DecodeConfig, tokenizers: Mapping[str, TextTokenizer]
) -> dict[str, Any]:
    """Shape, dtype, kind, spec and tokenizer of each modality, for the manifest."""
    return {
        name: {
            "shape": list(shape_of(name, spec)[0]),
            "dtype": shape_of(name, spec)[1],
            "kind": spec.kind,
            "spec": spec.model_dump(mode="json"),
            **({"tokenizer": tokenizers[name].entry} if name in tokenizers else {}),
        }
        for name, spec in config.modalities.items()
    }


def _scan(
    shards: Sequence[StorePath],
    names: Sequence[str],
    config: DecodeConfig,
    report: Callable[[Progress], None],
    options: dict[str, Any],
) -> list[ShardScan]:
    scans: dict[int, ShardScan] = {}
    num_rows = num_lost = 0
    for i, fields in _map_on_ray(
        lambda i: asdict(scan_shard(shards[i], names[i], config)), len(shards), options
    ):
        scan = scans[i] = ShardScan(**fields)
        num_rows, num_lost = num_rows + scan.samples.num_rows, num_lost + scan.num_lost
        report(
            Progress(
                stage="scan",
                num_done=len(scans),
                num_shards=len(shards),
                num_rows=num_rows,
                num_rejected=num_lost,
            )
        )
    return [scans[i] for i in range(len(shards))]


def _decode_shards(
    jobs: Sequence[ShardJob],
    scans: Sequence[ShardScan],
    config: DecodeConfig,
    report: Callable[[Progress], None],
    options: dict[str, Any],
) -> int:
    """Run the jobs and return how many reused existing parts.

    Raises BudgetError as soon as more samples are rejected than the configuration allows.
    """
    budget = config.max_rejected_share * sum(
        scan.samples.num_rows + scan.num_lost for scan in scans
    )
    num_done = num_rows = num_reused = 0
    reasons: Counter[str] = Counter()
    for _, (rows, reused, rejected) in _map_on_ray(lambda i: _run_job(jobs[i]), len(jobs), options):
        num_done, num_rows, num_reused = num_done + 1, num_rows + rows, num_reused + reused
        reasons.update(rejected)
        report(
            Progress(
                stage="decode",
                num_done=num_done,
                num_shards=len(jobs),
                num_rows=num_rows,
                num_rejected=reasons.total(),
            )
        )
        if reasons.total() > budget:
            counts = ", ".join(f"{reason} {num}" for reason, num in reasons.most_common())
            path = jobs[0].out / "rejected.arrow"
            write_table(
                path,
                pa.Table.from_pylist(
                    [
                        row
                        for job in jobs
                        if job.record_path.exists()
                        for row in rejected_rows(job, job.record_path.read_json())
                    ],
                    REJECTED,
                ),
            )
            raise BudgetError(
                f"Too many samples rejected: {reasons.total()}, with {num_rows} decoded, after"
                f" {num_done} of {len(jobs)} shards ({counts})."
                f" max_rejected_share is {config.max_rejected_share}",
                f"Fix the shards ({path} lists the rejected samples) or raise max_rejected_share."
                " Decoded parts are reused.",
            )
    return num_reused


def _run_job(job: ShardJob) -> tuple[int, bool, list[str]]:
    """Return number of rows, whether the parts were reused, and the reasons of the rejections."""
    if not _marker(job.out).exists():
        raise StoreError(
            f"Node {platform.node()} cannot see the output folder {job.out}",
            "Decode into storage that all nodes of the cluster share.",
        )
    record = decode_shard(job)
    return record["rows"], record["reused"], [row["reason"] for row in record["rejected"]]


def _marker(out: StorePath) -> StorePath:
    """File that shows a task whether its node shares the storage of the output folder."""
    return out / ".parts" / "started"


def _map_on_ray(
    function: Callable[[int], Any], num: int, options: dict[str, Any]
) -> Iterator[tuple[int, Any]]:
    """Call a function for 0..num-1 in Ray Data tasks, one call per task.

    Args:
        function: returns a JSON value. A RemixError that it raises is raised here again, with the
            same class.
        num: number of calls.
        options: arguments of `ray.data.Dataset.map`.
    Yields:
        (number, result) in the order of completion.
    """

    def task(row: dict[str, Any]) -> dict[str, Any]:
        try:
            result, error_name = json.dumps(function(row["number"])), ""
        except RemixError as error:
            result, error_name = str(error), type(error).__name__
        return {"number": row["number"], "result": result, "error": error_name}

    dataset = ray.data.from_items([{"number": i} for i in range(num)], override_num_blocks=num).map(
        task, **options
    )
    for row in dataset.iter_rows():
        if row["error"]:
            raise getattr(errors, row["error"])(row["result"])
        yield row["number"], json.loads(row["result"])


def _complete_manifest(
    out: StorePath,
    scans: Sequence[ShardScan],
    parents: dict[str, str],
    config: DecodeConfig,
    classes: Sequence[str],
) -> dict[str, Any] | None:
    """Return the manifest if the feature set is already complete, else None.

    Raises MismatchError if it was decoded with a different version, configuration or shards.
    """
    if not (out / MANIFEST).exists():
        return None
    manifest = (out / MANIFEST).read_json()
    cure = "Choose another --out or delete this feature set."
    if manifest["version"] != VERSION:
        raise MismatchError(
            f"{out} was decoded by version {manifest['version']} of the decoder;"
            f" this is version {VERSION}",
            cure,
        )
    _check_settings(out, manifest, config, classes, cure)
    outdated = outdated_reasons(config.limits, manifest["limits"])
    retries_rejected = not outdated.isdisjoint(manifest["reasons"])
    # The content of a member above a limit is not part of its shard's digest, so raising a limit
    # may change the digest: the shards are then compared by name.
    names = [part["shard"] for part in manifest["parts"]] if retries_rejected else None
    if manifest["parents"]["shards"] != parents["shards"] and names != [s.name for s in scans]:
        raise MismatchError(
            f"{out} was decoded from shards with fingerprint {manifest['parents']['shards'][:12]};"
            f" the given ones have {parents['shards'][:12]}",
            cure,
        )
    return None if retries_rejected else manifest


def _check_settings(
    out: StorePath,
    manifest: Mapping[str, Any],
    config: DecodeConfig,
    classes: Sequence[str],
    cure: str,
) -> None:
    """Raise MismatchError if a feature set was decoded with another configuration."""
    recorded, specs = manifest["modalities"], config.modalities
    for name in dict.fromkeys([*recorded, *specs]):
        if (
            name not in recorded
            or name not in specs
            or not equals_recorded(specs[name], recorded[name]["spec"])
        ):
            raise MismatchError(
                f"{out} was decoded with modalities.{name} = {recorded.get(name, {}).get('spec')};"
                f" the configuration has {specs.get(name)!r}",
                cure,
            )
    for name in lowered_limits(config.limits, manifest["limits"]):
        raise MismatchError(
            f"{out} was decoded with limits.{name} = {manifest['limits'].get(name)};"
            f" the configuration has {getattr(config.limits, name)}, which may reject more samples",
            cure,
        )
    rules = config.sample.model_dump(mode="json", exclude_defaults=True)
    if rules != manifest.get("sample", {}):
        raise MismatchError(
            f"{out} was decoded with sample = {manifest.get('sample', {})};"
            f" the configuration has {rules}",
            cure,
        )
    if list(recorded) != list(specs) or manifest["classes"] != list(classes):
        raise MismatchError(
            f"{out} has modalities {list(recorded)} and classes {manifest['classes']};"
            f" the configuration has {list(specs)} and {list(classes)}",
            cure,
        )
