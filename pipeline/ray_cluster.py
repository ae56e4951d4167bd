"""Where Ray runs: a cluster that is named, or this machine."""

import logging
import os
from collections.abc import Mapping

import grpc
import ray
import ray.data

from pipeline.errors import ConfigError, InputError

LOG = logging.getLogger("remix.cluster")
ANSWER_SECONDS = 30


def connect(address: str | None = None, num_cpus: int | None = None) -> None:
    """Joins the cluster of `address` or RAY_ADDRESS, else starts Ray on this machine; nothing happens where Ray runs already.

    Raises InputError where the cluster does not answer within ANSWER_SECONDS, or Ray cannot start.
    """
    _keep_quiet()
    if ray.is_initialized():
        return
    named = address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if named:
            _await_answer(named)
            ray.init(address=named, **quiet)
        else:
            # without an address, Ray joins whatever cluster the files of this machine name
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    except (grpc.FutureTimeoutError, OSError, RuntimeError, ValueError) as error:
        if named:
            raise InputError(
                f"the Ray cluster at {named} does not answer ({str(error) or f'not in {ANSWER_SECONDS} s'})",
                "start it, or name another by --address or RAY_ADDRESS, or none to use this machine",
            ) from error
        raise InputError(
            f"Ray cannot start on this machine ({error})",
            "let HOME and RAY_TMPDIR (else TMPDIR) be folders that can be written, the latter with a short path",
        ) from error


def _await_answer(address: str) -> None:
    """Waits until HOST:PORT or ray://HOST:PORT speaks gRPC (raises grpc.FutureTimeoutError); Ray itself would wait for minutes."""
    target = address.removeprefix("ray://")
    # with TLS, the certificates are Ray's own to read
    if ":" in target and not os.environ.get("RAY_USE_TLS"):
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(ANSWER_SECONDS)


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
