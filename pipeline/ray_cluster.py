"""Connects to a Ray cluster, or starts Ray on this machine."""

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
    """Connect to the cluster at `address` or RAY_ADDRESS, else start Ray on this machine.

    Does nothing if Ray is already initialised.

    Raises:
        InputError: the cluster does not answer within ANSWER_SECONDS, or Ray cannot start.
    """
    _silence_ray()
    if ray.is_initialized():
        return
    cluster = address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if cluster:
            _wait_for_grpc(cluster)
            ray.init(address=cluster, **quiet)
        else:
            # without an address, Ray would join any cluster that left its files on this machine
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    except (grpc.FutureTimeoutError, OSError, RuntimeError, ValueError) as error:
        if cluster:
            reason = str(error) or f"no reply in {ANSWER_SECONDS} s"
            raise InputError(
                f"No answer from the Ray cluster at {cluster} ({reason})",
                "start it, set --address or RAY_ADDRESS to another one, "
                "or unset both to use this machine",
            ) from error
        raise InputError(
            f"Ray cannot start on this machine ({error})",
            "set HOME and RAY_TMPDIR (or TMPDIR) to writable folders, the latter with a short path",
        ) from error


def _wait_for_grpc(address: str) -> None:
    """Wait until HOST:PORT or ray://HOST:PORT answers gRPC; ray.init alone would wait for minutes.

    Raises grpc.FutureTimeoutError.
    """
    target = address.removeprefix("ray://")
    # with TLS only Ray knows the certificates
    if ":" in target and not os.environ.get("RAY_USE_TLS"):
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(ANSWER_SECONDS)


def _silence_ray() -> None:
    """Turn off Ray Data's progress bars and reports, and Ray's notice about tokens at each start.

    The commands show their own progress.
    """
    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def require_resources(
    what: str, cpus: float, gpus: float, resources: Mapping[str, float] | None = None
) -> None:
    """Check that Ray can ever schedule `what`.

    A cluster named by RAY_ADDRESS may grow, so there a shortage is only a warning.
    Raises ConfigError.
    """
    for kind, needed in {"CPU": cpus, "GPU": gpus, **(resources or {})}.items():
        available = float(ray.cluster_resources().get(kind, 0))
        if needed > available:
            shortage = f"{what} need {needed:g} of {kind}, but Ray has {available:g} here"
            if not os.environ.get("RAY_ADDRESS"):
                raise ConfigError(shortage, "request fewer, or set RAY_ADDRESS to a larger cluster")
            LOG.warning("%s: they wait until nodes with enough of it join", shortage)
