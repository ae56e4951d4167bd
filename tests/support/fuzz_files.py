"""The files of `tests.support.mutate` as cases of `benchmarks/fuzz.py`."""

from collections.abc import Sequence
from pathlib import Path

from tests.support import mutate
from tests.support.fuzzing import Case, Cases

YAML = ("decode_yaml", "run_yaml")


def table_cases(folder: Path) -> Cases:
    """Arrow files, manifests and checkpoints, in turn."""
    return _cases([name for name in mutate.KINDS if name not in YAML], folder)


def yaml_cases(folder: Path) -> Cases:
    """Configurations, in turn."""
    return _cases(YAML, folder)


def _cases(names: Sequence[str], folder: Path) -> Cases:
    for name in names:
        (folder / name).mkdir()
    kinds = [(name, mutate.kind_of(name, folder / name)) for name in names]

    def case(seed: int, number: int) -> Case:
        name, kind = kinds[number % len(kinds)]
        (data,) = kind.mutations(kind.original, (seed << 40) + number, 1)
        return Case(
            name=name, data=data, judge=lambda data: "taken" if kind.judge(data) else "refused"
        )

    return case
