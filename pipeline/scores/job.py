"""Batch scoring: a Ray Data job over a feature set, with one copy of the model per actor."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray

from pipeline.features.feature_set import FeatureSet
from pipeline.ray_cluster import connect, require_resources
from pipeline.scores.build import Predict, batches_of, join_scores, score_rows

Progress = Callable[[int, int], None]


class _Scorer:
    """A Ray actor that builds the model once and then scores batch after batch."""

    def __init__(
        self,
        features: FeatureSet,
        rows: Any,
        batch_size: int,
        make_predict: Callable[[FeatureSet], Predict],
    ) -> None:
        self._features = features
        self._batches = dict(batches_of(rows, batch_size))
        self._predict = make_predict(features)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        rows = self._batches[int(item["item"])]
        table = score_rows(self._features, rows, self._predict(rows))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return {"number": int(item["item"]), "table": sink.getvalue().to_pybytes()}


def score(
    features: FeatureSet,
    split: str,
    make_predict: Callable[[FeatureSet], Predict],
    *,
    batch_size: int = 64,
    workers: int = 1,
    num_gpus: float = 0,
    epoch: int = 0,
    seed: int = 0,
    parents: dict[str, str] | None = None,
    progress: Progress = lambda done, total: None,
) -> pa.Table:
    """Score a split on `workers` actors; the result does not depend on their number.

    Args:
        make_predict: Builds the model on each actor.
        num_gpus: GPUs per actor, may be fractional.
        progress: Called with the number of batches done and their total.
    Returns:
        The scores table, as join_scores.
    """
    connect()
    require_resources(f"{workers} workers", workers, workers * num_gpus)
    rows = features.rows_of(split)
    numbers = [number for number, _ in batches_of(rows, batch_size)]
    dataset = ray.data.from_items(
        numbers, override_num_blocks=max(1, min(len(numbers), 8 * workers))
    ).map(
        _Scorer,
        fn_constructor_args=(features, rows, batch_size, make_predict),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=num_gpus,
    )
    results = []
    for item in dataset.iter_rows():
        results.append((item["number"], pa.ipc.open_stream(item["table"]).read_all()))
        progress(len(results), len(numbers))
    return join_scores(results, features, epoch, parents or {}, seed)
