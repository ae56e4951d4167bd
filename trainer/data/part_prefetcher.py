"""The node's cache as the trainer uses it: parts of a remote store are fetched before the steps that read them, in plan order."""

import logging
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from pipeline.scores.build import batches_of
from pipeline.storage.node_cache import NodeCache
from trainer.config import RunConfig
from trainer.process_group import World

LOG = logging.getLogger("remix.cache")
Reads = Sequence[tuple[str, Array]]
"""What one step reads: modalities, and of each some rows."""
AHEAD_SHARE = 0.5
"""Of the cache, what may be fetched and not yet read, so that it is still there when it is."""
AHEAD_STEPS = 1024
"""How far a plan is looked through in one go where all of it is in the cache."""


def open_features(config: RunConfig) -> FeatureSet:
    """The features of a run, those of a remote store through this node's cache (raises MissingError, ConfigError, StoreError)."""
    features = FeatureSet.open(config.features_path)
    if features.path.local:
        return features
    resources = config.resources
    folder = Path(resources.cache_dir or Path(tempfile.gettempdir()) / "remix-cache")
    # only an epoch that goes from window to window gains where it evicts: rows from all over would fetch every part again and again
    sweeps = _shuffled_bytes(config, features) <= resources.cache_size < _num_bytes(features)
    return FeatureSet(
        features.path, features.manifest, NodeCache(folder, resources.cache_size, keep=not sweeps)
    )


def check_cache(config: RunConfig, features: FeatureSet) -> None:
    """Warns where a node's cache cannot hold what an epoch shuffles."""
    if features.path.local:
        return
    size, needed, total = (
        config.resources.cache_size,
        _shuffled_bytes(config, features),
        _num_bytes(features),
    )
    if needed > size:
        LOG.warning(
            "rows are shuffled over %.3g GB of the features' %.3g GB (plan.locality is %s), but resources.cache_size is %.3g GB: "
            "what does not fit is read from the store by ranges, which is slow; set plan.locality to at most %d rows or raise resources.cache_size",
            needed / 1e9,
            total / 1e9,
            config.plan.locality or "null",
            size / 1e9,
            max(1, int(AHEAD_SHARE * size * features.num_rows / total)),
        )


def fetching(
    features: FeatureSet, rows: Array, batch_size: int, world: World
) -> Iterator[tuple[int, Array]]:
    """This rank's numbered batches of rows, whose modalities are all fetched ahead."""

    def batches() -> Iterable[tuple[int, Array]]:
        return batches_of(rows, batch_size, world.rank, world.size)

    with Prefetcher(
        features, ([(name, batch) for name in features.modalities] for _, batch in batches())
    ) as ahead:
        for step, batch in enumerate(batches()):
            ahead.advance(step)
            yield batch


class Prefetcher:
    """A thread that fetches the parts that steps read, in the order of their first use; it ends with the block, and its errors come out of `reach`."""

    def __init__(self, features: FeatureSet, steps: Iterable[Reads]) -> None:
        self._features, self._steps = features, steps
        self._bound = AHEAD_SHARE * features.cache.max_bytes if features.cache else 0
        self._changed = threading.Condition()
        # step, part, bytes: of steps that are not reached
        self._fetched: deque[tuple[int, tuple[str, int], int]] = deque()
        self._keys: set[tuple[str, int]] = set()  # their parts
        self._num_bytes = 0  # and bytes
        self._reached = -1
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="part-fetcher", daemon=True)

    def __enter__(self) -> "Prefetcher":
        if self._features.cache:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._features.cache:
            self._thread.join()  # at most a part's download

    def advance(self, step: int) -> None:
        """Tells that a step is read now, by its position among the steps (raises DataError, MissingError, StoreError: what ended the thread)."""
        with self._changed:
            self._reached = step
            while self._fetched and self._fetched[0][0] <= step:
                _, key, num_bytes = self._fetched.popleft()
                self._keys.remove(key)
                self._num_bytes -= num_bytes
            self._changed.notify()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            for step, reads in enumerate(self._steps):
                for modality, rows in reads:
                    for part in self._features.parts_of(rows):
                        if self._stopped:
                            return
                        self._fetch(step, (modality, part))
        except BaseException as error:
            self._error = error

    def _fetch(self, step: int, key: tuple[str, int]) -> None:
        """Fetches a part as soon as there is room for it, unless it is there or the reader, who would fetch it itself, has come so far."""
        if key in self._keys:
            return
        num_bytes = self._features.file_of(*key).num_bytes
        self._wait(
            lambda: (
                step - self._reached <= AHEAD_STEPS
                and (not self._fetched or self._num_bytes + num_bytes <= self._bound)
            ),
            step,
        )
        if self._stopped or step <= self._reached:
            return
        if not self._features.fetch(*key):
            self._wait(lambda: False, step)
            return
        with self._changed:
            if step > self._reached:
                self._fetched.append((step, key, num_bytes))
                self._keys.add(key)
                self._num_bytes += num_bytes

    def _wait(self, ready: Callable[[], bool], step: int) -> None:
        """Until it is so, or the reader has reached the step, or nothing more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or step <= self._reached or ready())


def _num_bytes(features: FeatureSet) -> int:
    return sum(
        features.file_of(name, part).num_bytes
        for name in features.modalities
        for part in range(len(features.manifest["parts"]))
    )


def _shuffled_bytes(config: RunConfig, features: FeatureSet) -> float:
    """How many bytes of the features stand together for the rows of a window of the plan."""
    num_rows = features.num_rows
    return _num_bytes(features) * min(config.plan.locality or num_rows, num_rows) / num_rows
