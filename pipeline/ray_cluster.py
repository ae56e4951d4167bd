"""Where Ray runs: a cluster that is named, or this machine."""

import logging
import os
from collections.abc import Mapping

import ray
import ray.data

from pipeline.errors import ConfigError

LOG = logging.getLogger("remix.cluster")


def connect(address: str | None = None, num_cpus: int | None = None) -> None:
    """Joins the cluster of `address` or RAY_ADDRESS, else starts Ray on this machine; nothing happens where Ray runs already."""
    _keep_quiet()
    if ray.is_initialized():
        return
    named = address or os.environ.get("RAY_ADDRESS")
    local = {} if named else {"num_cpus": num_cpus, "include_dashboard": False}
    ray.init(address=named, log_to_driver=False, logging_level=logging.WARNING, **local)


def _keep_quiet() -> None:
    """Ray Data reports each execution and draws its own bars, although progress is ours to show; Ray tells at every start that it asks for a token."""
    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def require(
    what: str, cpus: float, gpus: float, resources: Mapping[str, float] | None = None
) -> None:
    """Raises ConfigError where Ray on this machine can never hold `what`; a cluster that is named may grow, so there it is a warning."""
    for kind, wanted in {"CPU": cpus, "GPU": gpus, **(resources or {})}.items():
        there = float(ray.cluster_resources().get(kind, 0))
        if wanted > there:
            lacks = f"{what} want {wanted:g} of {kind}, but Ray has {there:g} here"
            if not os.environ.get("RAY_ADDRESS"):
                raise ConfigError(lacks, "ask for fewer, or name a larger cluster in RAY_ADDRESS")
            LOG.warning("%s: they wait until nodes join that have it", lacks)
