"""`remix doctor`: what a report of a problem should contain about the machine."""

import os
import platform
import shutil
import socket
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from typer import Option

from pipeline.errors import RemixError
from remix.cli.output import Json, say

PACKAGES = ("numpy", "pyarrow", "torch", "torchvision", "torchaudio", "av", "ray")
PORTS = {8000: "remix serve", 8265: "Ray jobs", 6379: "Ray head"}
ANSWER_SECONDS = 3
SHARED_MEMORY = Path("/dev/shm")


def doctor(
    store: Annotated[
        str | None,
        Option(help="Folder or pyarrow.fs URI.", show_default="$REMIX_STORE or store"),
    ] = None,
    json_: Json = False,
) -> None:
    """Show versions, CUDA, Ray, shared memory, ports, disk and the store, for a bug report.

    Exits 1 if the store or the Ray cluster at RAY_ADDRESS cannot be reached. Writes nothing.
    """
    from pipeline.storage.store_path import StorePath
    from service.settings import settings_of

    path = settings_of(store=store).store
    store_text, store_ok = _store(path)
    ray_text, ray_ok = _ray()
    try:
        local = StorePath.at(path).local
    except RemixError:
        local = None
    disks = {Path(tempfile.gettempdir()), *([local] if local else [])}
    result: dict[str, Any] = {
        "ok": store_ok and ray_ok,
        "remix": version("data-remixing"),
        "python": f"{platform.python_version()}, {platform.platform()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"),
        "cuda": _cuda(),
        "ray": ray_text,
        "shared memory": _space(SHARED_MEMORY) if SHARED_MEMORY.exists() else "none",
        "ports": ", ".join(
            f"{port} ({use}) {'free' if _is_free(port) else 'in use'}"
            for port, use in PORTS.items()
        ),
        "disk": "; ".join(_space(disk) for disk in sorted(disks)),
        "store": store_text,
    }
    if json_:
        say(result, "", True)
    else:
        lines = Table.grid(padding=(0, 2))
        for name, text in result.items():
            if name != "ok":
                lines.add_row(f"[cyan]{name}[/]", escape(text))
        Console().print(lines, highlight=False)
    if not result["ok"]:
        raise typer.Exit(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    """CUDA's version and the GPUs that PyTorch can use."""
    if find_spec("torch") is None:
        return "unknown, torch is not installed"
    try:
        import torch
    except ImportError as error:
        return f"unknown: torch cannot be imported ({error})"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return "no GPU" if built else "no GPU (this PyTorch is built for CPUs)"
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}: {', '.join(names)}"


def _ray() -> tuple[str, bool]:
    """Where Ray would run, and whether it can be reached."""
    from pipeline.storage.store_path import without_secrets

    address = os.environ.get("RAY_ADDRESS")
    if find_spec("ray") is None:
        return "not installed", True
    if not address:
        return "starts on this machine (RAY_ADDRESS is not set)", True
    shown = without_secrets(address)
    host, _, port = shown.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # such as `auto`
        return f"RAY_ADDRESS {shown}, not checked", True
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        return f"no answer from RAY_ADDRESS {shown} ({error})", False
    return f"RAY_ADDRESS {shown} answers", True


def _is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(ANSWER_SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _space(path: Path) -> str:
    """Free and total space of the file system of a path, which need not exist."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    return f"{path}: {decimal(usage.free)} of {decimal(usage.total)} free"


def _store(path: str) -> tuple[str, bool]:
    """What a store contains, and whether it can be read."""
    from pipeline.storage.store_path import StorePath, without_secrets

    shown = without_secrets(path)
    try:
        root = StorePath.at(path)
        if not root.exists():
            return f"{shown}: does not exist yet", True
        runs, features = ((root / folder).list() for folder in ("runs", "features"))
    except RemixError as error:
        return str(error), False
    access = ""
    if root.local and not os.access(root.local, os.W_OK):
        access = ", read-only"
    return f"{shown}: {len(runs)} runs, {len(features)} feature sets{access}", True
