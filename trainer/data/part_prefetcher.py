"""Prefetches parts of a remote store into the node's cache, in the order of the plan."""

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
"""What one step reads: pairs of a modality and its rows."""
AHEAD_SHARE = 0.5
"""Maximum fraction of the cache that holds prefetched, unread parts of all ranks of a node, so that
none is evicted."""
AHEAD_STEPS = 1024
"""Maximum number of steps that the prefetcher is ahead of the reader."""


def open_features(config: RunConfig) -> FeatureSet:
    """Open a run's features, through the node's cache if the store is remote.

    Raises MissingError, ConfigError, StoreError.
    """
    features = FeatureSet.open(config.features_path)
    if features.path.local:
        return features
    resources = config.resources
    folder = Path(resources.cache_dir or Path(tempfile.gettempdir()) / "remix-cache")
    # evict only if the plan is windowed: global shuffling would fetch every part again and again
    sweeps = _shuffled_bytes(config, features) <= resources.cache_size < _num_bytes(features)
    return FeatureSet(
        features.path, features.manifest, NodeCache(folder, resources.cache_size, keep=not sweeps)
    )


def check_cache(config: RunConfig, features: FeatureSet) -> None:
    """Warn if a node's cache is smaller than what an epoch shuffles."""
    if features.path.local:
        return
    size, needed, total = (
        config.resources.cache_size,
        _shuffled_bytes(config, features),
        _num_bytes(features),
    )
    if needed > size:
        LOG.warning(
            "The plan shuffles %.3g of %.3g GB of features (plan.locality %s), but "
            "resources.cache_size is %.3g GB: the rest is read from the store in ranges, which is "
            "slow. Set plan.locality to at most %d rows, or raise resources.cache_size.",
            needed / 1e9,
            total / 1e9,
            config.plan.locality or "null",
            size / 1e9,
            max(1, int(AHEAD_SHARE * size * features.num_rows / total)),
        )


def prefetched_rows(
    features: FeatureSet, rows: Array, batch_size: int, world: World
) -> Iterator[tuple[int, Array]]:
    """Yield this rank's numbered batches of rows, with all modalities prefetched."""

    def batches() -> Iterable[tuple[int, Array]]:
        return batches_of(rows, batch_size, world.rank, world.size)

    steps = ([(name, batch) for name in features.modalities] for _, batch in batches())
    with Prefetcher(features, steps, world.node_size) as ahead:
        for step, batch in enumerate(batches()):
            ahead.advance(step)
            yield batch


class Prefetcher:
    """Context manager with a thread that fetches the parts of steps, in order of first use.

    Errors of the thread are raised by `advance`. `num_ranks` processes of the node share the cache.
    """

    def __init__(self, features: FeatureSet, steps: Iterable[Reads], num_ranks: int = 1) -> None:
        self._features, self._steps = features, steps
        size = features.cache.max_bytes if features.cache else 0
        self._bound = AHEAD_SHARE * size / num_ranks
        self._changed = threading.Condition()
        # (step, part, bytes) of prefetched parts whose step is not reached yet
        self._fetched: deque[tuple[int, tuple[str, int], int]] = deque()
        self._keys: set[tuple[str, int]] = set()  # their parts
        self._num_bytes = 0  # their total size
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
            self._thread.join()  # waits for at most one part's download

    def advance(self, step: int) -> None:
        """Report that a step, by its position, is being read.

        Raises the error that ended the thread: DataError, MissingError or StoreError.
        """
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
        """Fetch a part when it fits, unless it is cached or its step has been reached."""
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
        """Wait until `ready`, or until the step is reached, or until the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or step <= self._reached or ready())


def _num_bytes(features: FeatureSet) -> int:
    return sum(
        features.file_of(name, part).num_bytes
        for name in features.modalities
        for part in range(len(features.manifest["parts"]))
    )


def _shuffled_bytes(config: RunConfig, features: FeatureSet) -> float:
    """Number of bytes of features that one window of the plan shuffles."""
    num_rows = features.num_rows
    return _num_bytes(features) * min(config.plan.locality or num_rows, num_rows) / num_rows
