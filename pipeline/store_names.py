"""Names of runs and feature sets in place of their paths."""

import os
from pathlib import Path
from typing import TypeVar

from pipeline.config import is_name
from pipeline.storage.store_path import StorePath

T = TypeVar("T")


def path_of(name: T, *folders: str, store: str | None = None) -> T | str:
    """The path that a user named: a path or URI, or a name in one of the folders of the store.

    Args:
        name: is looked up if a store is given, or if no such path exists.
        folders: such as runs; of several, the first that has the name.
        store: by default REMIX_STORE or ./store.
    """
    if not isinstance(name, str) or not is_name(name) or (store is None and Path(name).exists()):
        return name
    root, mark, query = store or os.environ.get("REMIX_STORE") or "store", "", ""
    if "://" in root:
        root, mark, query = root.partition("?")
    paths = [f"{root.rstrip('/')}/{folder}/{name}{mark}{query}" for folder in folders]
    return next((path for path in paths[:-1] if StorePath.at(path).exists()), paths[-1])
