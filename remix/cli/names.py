"""Names in a store in place of paths."""

from pathlib import Path
from typing import Annotated

from typer import Option

NameStore = Annotated[
    str | None,
    Option(
        "--store",
        help="Store of a name: a folder or pyarrow.fs URI.",
        show_default="$REMIX_STORE or store",
    ),
]


def path_of(name: str, store: str | None, *folders: str) -> str:
    """The path that a user named: a path or URI, or a name in one of the folders of the store.

    A name is looked up in the store if --store is given or no such path exists.
    """
    from pipeline.config import is_name
    from pipeline.storage.store_path import StorePath
    from service.settings import settings_of

    if not is_name(name) or (store is None and Path(name).exists()):
        return name
    root, mark, query = settings_of(store=store).store, "", ""
    if "://" in root:
        root, mark, query = root.partition("?")
    paths = [f"{root.rstrip('/')}/{folder}/{name}{mark}{query}" for folder in folders]
    return next((path for path in paths[:-1] if StorePath.at(path).exists()), paths[-1])
