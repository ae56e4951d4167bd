"""The option of commands that take names in a store."""

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
