"""Decode jobs on Ray Data: one task per shard, then the manifest."""

import json
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.data

from pipeline import errors
from pipeline.decode.account import FOLDER
from pipeline.decode.config import DecodeConfig
from pipeline.decode.finish import finish, write_rejected
from pipeline.decode.media.shapes import shape_of
from pipeline.decode.preflight import check_first_samples
from pipeline.decode.problems import check_num_classes, class_names, no_samples, sorted_labels
from pipeline.decode.reuse import equals_recorded, lowered_limits, outdated_reasons
from pipeline.decode.shard_task import VERSION, ShardJob, decode_shard, shard_digest, source_entry
from pipeline.decode.summary import DecodeSummary, Progress, summary_of
from pipeline.decode.tokenizer import TextTokenizer, resolve_tokenizers, tokenizer_paths
from pipeline.errors import BudgetError, MismatchError, RemixError, StoreError
from pipeline.features.feature_set import FeatureSet
from pipeline.features.gaps import gaps
from pipeline.ray_cluster import connect, require_resources
from pipeline.shards.source import ShardSource, shard_sources, size_warning
from pipeline.storage.store_path import MANIFEST, StorePath


def decode(
    shards: Sequence[StorePath],
    out: StorePath,
    config: DecodeConfig,
    *,
    inferred: Sequence[str] = (),
    verify: bool = False,
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
        verify: hash the shards whose parts exist, rather than trust their sizes and versions.
        progress: called before the first shard and after each that was decoded or verified.
        address: address of the Ray cluster; by default Ray is started locally.
        num_cpus: number of CPUs of a local Ray.
        concurrency: maximum number of concurrent tasks; each uses one CPU.
        resources: Ray custom resources per task, which restrict decoding to nodes that have them.
    Raises:
        InputError: the shards or the configuration are invalid. Parts that were decoded before
            the error are kept.
        BudgetError: more samples were rejected than the configuration allows.
    """
    connect(address, num_cpus)
    require_resources("decode tasks", 1, 0, resources)
    report = progress or (lambda _: None)
    config, tokenizers = resolve_tokenizers(config)
    sources = shard_sources(shards)
    warning = size_warning([source.num_bytes for source in sources])
    notes = [*inferred, *([warning] if warning else [])]
    cluster = _Cluster(sources, report, concurrency, resources)
    existing = _complete_manifest(out, sources, config, verify, cluster)
    if existing:
        notes += gaps(FeatureSet.open(out))
        return summary_of(existing, num_reused=len(shards), unchanged=True, notes=notes)
    check_first_samples(sources, config)
    specs = _manifest_specs(config, tokenizers)
    with (out / FOLDER / ".lock").held(f"{out} is being decoded") as dead_owner:
        _prepare(out, specs)
        for path, tokenizer in zip(tokenizer_paths(out, config), tokenizers.values(), strict=True):
            path.write_bytes(tokenizer.text.encode())
        decoded = _decode_shards(out, sources, config, verify, cluster)
        classes = class_names(config, decoded.labels)
        manifest, missing = finish(out, sources, config, classes, specs, decoded.num_samples)
        # a task of a failed job may have been ended after the first sweep
        _sweep(out, specs)
    notes += missing
    if dead_owner:
        notes.append(f"took over from {dead_owner}, which ended unexpectedly")
    return summary_of(manifest, num_reused=decoded.num_reused, unchanged=False, notes=notes)


def _prepare(out: StorePath, specs: Mapping[str, Any]) -> None:
    """Remove unfinished files and the manifest, and write the marker."""
    _sweep(out, specs)
    # Without a manifest, nobody reads the feature set while its parts are rewritten.
    (out / MANIFEST).delete()
    _marker(out).write_bytes(b"")


def _sweep(out: StorePath, specs: Mapping[str, Any]) -> None:
    """Remove files that tasks that have ended left unfinished."""
    for folder in (out, out / FOLDER, *(out / name for name in specs)):
        folder.sweep()


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


@dataclass(kw_only=True, slots=True)
class _Decoded:
    """What the tasks have reported so far.

    Attributes:
        num_bytes: size of the shards that are done.
        labels: the labels that occur.
    """

    num_rows: int = 0
    num_reused: int = 0
    num_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    labels: set[str] = field(default_factory=set)

    @property
    def num_samples(self) -> int:
        """Number of decoded and rejected samples."""
        return self.num_rows + self.reasons.total()

    def add(self, source: ShardSource, result: dict[str, Any]) -> None:
        """Add the result of a task. Raises InputError if there are too many labels."""
        self.num_rows += result["rows"]
        self.num_reused += result["reused"]
        self.num_bytes += source.num_bytes
        self.reasons.update(result["rejected"])
        self.labels.update(result["labels"])
        check_num_classes(len(self.labels))


def _decode_shards(
    out: StorePath,
    sources: Sequence[ShardSource],
    config: DecodeConfig,
    verify: bool,
    cluster: "_Cluster",
) -> _Decoded:
    """Decode the shards into parts and accounts.

    Raises DataError if no sample has metadata, and BudgetError if more samples are rejected than
    the configuration allows: at the end, or earlier if four times as many are as the shards seem to
    allow, by their sizes.
    """

    def run(index: int, source: ShardSource) -> dict[str, Any]:
        return _run_job(ShardJob(source=source, index=index, out=out, config=config, verify=verify))

    decoded, num_done, share = _Decoded(), 0, config.max_rejected_share
    total_bytes = sum(source.num_bytes for source in sources)
    cluster.report("decode", 0, len(sources))
    for index, result in cluster.map(run, range(len(sources))):
        decoded.add(sources[index], result)
        num_done += 1
        num_rejected = decoded.reasons.total()
        cluster.report("decode", num_done, len(sources), decoded.num_rows, num_rejected)
        expected = decoded.num_samples * total_bytes / max(decoded.num_bytes, 1)
        if num_rejected > 4 * share * expected:
            break
    if decoded.reasons.total() > share * decoded.num_samples:
        counts = ", ".join(f"{reason} {num}" for reason, num in decoded.reasons.most_common())
        path = write_rejected(out, sources)
        raise BudgetError(
            f"Too many samples rejected: {decoded.reasons.total()}, with {decoded.num_rows}"
            f" decoded, after {num_done} of {len(sources)} shards ({counts})."
            f" max_rejected_share is {share}",
            f"Fix the shards ({path} lists the rejected samples) or raise max_rejected_share."
            " Decoded parts are reused.",
        )
    if not decoded.labels:
        reasons = [f"{reason} {num}" for reason, num in decoded.reasons.most_common()]
        raise no_samples(f"{len(sources)} shards", reasons)
    return decoded


def _run_job(job: ShardJob) -> dict[str, Any]:
    """Decode a shard; returns what the driver needs of its record."""
    if not _marker(job.out).exists():
        raise StoreError(
            f"Node {platform.node()} cannot see the output folder {job.out}",
            "Decode into storage that all nodes of the cluster share.",
        )
    record = decode_shard(job)
    return {name: record[name] for name in ("rows", "reused", "rejected", "labels")}


def _marker(out: StorePath) -> StorePath:
    """File that shows a task whether its node shares the storage of the output folder."""
    return out / FOLDER / "started"


class _Cluster:
    """Runs functions of shards as Ray Data tasks, one per shard, each on one CPU.

    A node has at most as many shards in flight as CPUs, a task starts where one is free, and its
    result is used when it ends. A task receives its shard as a row: what all tasks share does not
    grow with the number of shards.

    Args:
        sources: the shards.
        progress: called with the progress of the job.
        concurrency: maximum number of concurrent tasks.
        resources: Ray custom resources per task.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        progress: Callable[[Progress], None],
        concurrency: int | None,
        resources: Mapping[str, float] | None,
    ) -> None:
        self._sources = sources
        self._file_systems: list[pafs.FileSystem] = []
        for source in sources:
            if source.path.fs not in self._file_systems:
                self._file_systems.append(source.path.fs)
        self._progress = progress
        self._options = {
            "num_cpus": 1,
            "concurrency": concurrency,
            "resources": dict(resources or {}),
        }

    def report(
        self, stage: str, num_done: int, num_shards: int, num_rows: int = 0, num_rejected: int = 0
    ) -> None:
        """Report progress."""
        self._progress(
            Progress(
                stage=stage,
                num_done=num_done,
                num_shards=num_shards,
                num_rows=num_rows,
                num_rejected=num_rejected,
            )
        )

    def map(
        self, function: Callable[[int, ShardSource], Any], indexes: Iterable[int]
    ) -> Iterator[tuple[int, Any]]:
        """Call a function of number and shard for some shards.

        Args:
            function: returns a JSON value. A RemixError that it raises is raised here again, with
                the same class.
            indexes: numbers of the shards.
        Yields:
            (number, result) in the order of completion.
        """
        file_systems = self._file_systems

        def task(row: dict[str, Any]) -> dict[str, Any]:
            index = row.pop("index")
            path = StorePath(file_systems[row.pop("file_system")], row.pop("path"))
            try:
                result, error_name = json.dumps(function(index, ShardSource(path=path, **row))), ""
            except RemixError as error:
                result, error_name = str(error), type(error).__name__
            return {"index": index, "result": result, "error": error_name}

        rows = [self._row(index) for index in indexes]
        if not rows:
            return
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            task, **self._options
        )
        for row in dataset.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["result"])
            yield row["index"], json.loads(row["result"])

    def _row(self, index: int) -> dict[str, Any]:
        source = self._sources[index]
        return {
            "index": index,
            "file_system": self._file_systems.index(source.path.fs),
            "path": source.path.path,
            "name": source.name,
            "num_bytes": source.num_bytes,
            "version": source.version,
        }


def _complete_manifest(
    out: StorePath,
    sources: Sequence[ShardSource],
    config: DecodeConfig,
    verify: bool,
    cluster: _Cluster,
) -> dict[str, Any] | None:
    """Return the manifest if the feature set is already complete, else None.

    Shards with another size or version than recorded are hashed, with `verify` all of them.
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
    _check_settings(out, manifest, config, cure)
    names = [part["shard"] for part in manifest["parts"]]
    for index, (given, name) in enumerate(zip_longest((each.name for each in sources), names)):
        if given != name:
            raise MismatchError(
                f"{out} was decoded from {len(names)} shards, of which number {index} is {name};"
                f" of the {len(sources)} given ones it is {given}",
                cure,
            )
    # The content of a member above a limit is not part of its shard's digest, so raising a limit
    # may change the digest: the shards are then compared by name.
    if not outdated_reasons(config.limits, manifest["limits"]).isdisjoint(manifest["reasons"]):
        return None
    recorded = [part.get("source", {}) for part in manifest["parts"]]
    unknown = [
        index
        for index, source in enumerate(sources)
        if verify or not source_entry(source).items() <= recorded[index].items()
    ]
    digests = [source.get("digest", "") for source in recorded]
    for num_done, (index, digest) in enumerate(
        cluster.map(lambda _, source: shard_digest(source, config), unknown), 1
    ):
        if digest != digests[index]:
            raise MismatchError(
                f"{out} was decoded from another version of {sources[index].name}, with digest"
                f" {digests[index][:12]}; the present one has {digest[:12]}",
                cure,
            )
        cluster.report("verify", num_done, len(unknown))
    return manifest


def _check_settings(
    out: StorePath,
    manifest: Mapping[str, Any],
    config: DecodeConfig,
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
    expected = list(config.classes or sorted_labels(manifest["classes"]))
    if list(recorded) != list(specs) or manifest["classes"] != expected:
        raise MismatchError(
            f"{out} has modalities {list(recorded)} and classes {manifest['classes']};"
            f" the configuration has {list(specs)} and {expected}",
            cure,
        )
