"""Prometheus gauges of the store."""

import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from pipeline.errors import RemixError
from service.store.catalog import Catalog
from service.store.reader import StoreReader


class StoreCollector:
    """Collects gauges of the store at each scrape."""

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("remix_store_up", "Whether the store can be read.")
        try:
            gauges = list(self._gauges(Catalog(self._reader.for_request())))
        except RemixError:
            gauges = []
        up.add_metric([], float(bool(gauges)))
        yield from [up, *gauges]

    def _gauges(self, catalog: Catalog) -> Iterator[Metric]:
        runs = catalog.runs()
        num_plans, plans = catalog.last_plans(runs)
        yield GaugeMetricFamily("remix_runs", "Runs in the store.", value=len(runs))
        yield GaugeMetricFamily("remix_plans", "Plans in the store.", value=num_plans)
        if not plans:
            return
        name, epoch, artifact = max(plans, key=lambda plan: plan[2].info.mtime_ns or 0)
        yield GaugeMetricFamily(
            "remix_newest_plan_age_seconds",
            "Time since the newest plan was written.",
            value=max(time.time() - artifact.written.timestamp(), 0),
        )
        info = GaugeMetricFamily(
            "remix_newest_plan_epoch", "The epoch of the newest plan.", labels=["run"]
        )
        info.add_metric([name], epoch)
        yield info
        try:
            stats = catalog.stats(name, epoch)
        except RemixError:
            return  # statistics cannot be read: only the age of the plan is exported
        for what in ("num_steps", "num_rows", "share"):
            title = {"num_steps": "Steps", "num_rows": "Samples", "share": "Share of the samples"}[
                what
            ]
            gauge = GaugeMetricFamily(
                f"remix_newest_plan_{what.removeprefix('num_')}",
                f"{title} of a modality in the newest plan.",
                labels=["modality"],
            )
            for modality, numbers in stats.modalities.items():
                gauge.add_metric([modality], getattr(numbers, what) or 0)
            yield gauge
        if stats.churn is not None:
            yield GaugeMetricFamily(
                "remix_newest_plan_churn",
                "Share of samples that changed modality since the previous plan.",
                value=stats.churn,
            )
