"""Objects of a user's own modules, named by import path: `package.module:name`."""

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from hashlib import sha256
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, MismatchError

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

EXTRAS = {"timm": "timm", "transformers": "hf"}
"""Optional packages that a configuration can name, and the extra that installs each."""

Identity = dict[str, str | None]
"""Of a module: `package`, the name and version of its distribution, None if it has none; `sha256`
of its file, None if it has none."""


def is_import_path(name: str | None) -> bool:
    """Whether a name in a configuration is an import path."""
    return name is not None and IMPORT_PATH.fullmatch(name) is not None


def check_name(name: str, known: Collection[str]) -> str:
    """Return a name that is known or an import path. Raises ValueError."""
    if name not in known and not is_import_path(name):
        choices = f"choose from {', '.join(known)}, or " if known else ""
        raise ValueError(f"{choices}give package.module:name")
    return name


def load_extension(path: str) -> Any:
    """Import the object at an import path. Raises ConfigError."""
    module_name, name = path.split(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name))
        raise ConfigError(
            f"{path}: module {error.name!r} is not installed or not on the path of Python",
            f"run on every node: pip install 'data-remixing[{extra}]'"
            if extra
            else "install its package on every node, or add its folder to PYTHONPATH",
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(
            f"{path}: module {module_name!r} cannot be imported ({type(error).__name__}: {error})",
            "fix the module",
        ) from error
    if not callable(getattr(module, name, None)):
        raise ConfigError(
            f"{path}: module {module_name!r} ({getattr(module, '__file__', None)}) has no function "
            f"or class {name!r}",
            "correct the name, or see that no other module of that name comes first",
        )
    return getattr(module, name)


def identities(paths: Iterable[str]) -> dict[str, Identity]:
    """The identity of each import path's module. Raises ConfigError."""
    return {path: _identity(path) for path in sorted(set(paths))}


def _identity(path: str) -> Identity:
    load_extension(path)
    module = path.split(":")[0]
    owners = _distributions().get(module.split(".")[0], [])
    file = getattr(sys.modules[module], "__file__", None)
    return {
        "package": f"{owners[0]} {metadata.version(owners[0])}" if owners else None,
        "sha256": sha256(Path(file).read_bytes()).hexdigest() if file else None,
    }


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()  # reads the files of every installed package


def check_identities(
    what: str, recorded: dict[str, Identity], own: Mapping[str, Identity] | None = None
) -> None:
    """Check that the modules and weights which `what` recorded are the ones in use.

    Args:
        own: identities of what is not a module, by the same keys.
    Raises:
        ConfigError: a module is missing.
        MismatchError: a module is another one.
    """
    for path, identity in recorded.items():
        current = own[path] if own and path in own else _identity(path)
        if current != identity:
            raise MismatchError(
                f"{path}: {what} was made with {_text(identity)}, but this is {_text(current)}",
                "restore it, or start a run of another name",
            )


def _text(identity: Identity) -> str:
    return f"{identity['package'] or 'no package'}, sha256 {str(identity['sha256'])[:12]}"
