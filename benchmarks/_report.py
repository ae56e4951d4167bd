"""Prints the result of a benchmark as one JSON line.

Import this module before `pipeline`: it puts this checkout first on the path, so that the benchmark
measures it rather than an installed Remix.
"""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    "numpy",
    "pyarrow",
    "torch",
    "torchvision",
    "torchaudio",
    "av",
    "ray",
    "webdataset",
    "litdata",
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def machine() -> dict[str, object]:
    """Processor, number of usable cores, memory in GiB, and versions of the libraries."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def report(name: str, ratio: float, **fields: object) -> None:
    """Print one JSON line with the name, the ratio, the given fields and the machine."""
    print(
        json.dumps(
            {"name": name, "ratio": round(ratio, 4), **fields, "machine": machine()},
            allow_nan=False,
        ),
        flush=True,
    )


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
