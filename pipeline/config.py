"""Strict configuration models, read from YAML files, with errors that name the field."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, MissingError, StoreError
from pipeline.storage.store_path import StorePath

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=_NAME_PATTERN)]
"""Name of a modality, run or feature set; used in file names, column names and URLs."""

M = TypeVar("M", bound=BaseModel)
MAX_ERRORS = 20
"""Errors of one file that a message lists."""
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 10


def is_name(text: str) -> bool:
    """Whether a text can be a Name."""
    return re.fullmatch(_NAME_PATTERN, text) is not None


class StrictModel(BaseModel):
    """A frozen section of a configuration that rejects unknown fields, NaN and infinity."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def parse(model: type[M], value: Any, what: str, folder: StorePath | None = None) -> M:
    """Validate a mapping against a model.

    Args:
        model: the model.
        value: the mapping.
        what: the name of the mapping in error messages, such as the path of its file.
        folder: the folder that paths of files in the mapping are relative to.
    Raises:
        ConfigError: names each invalid field, its value and how to fix it.
    """
    try:
        return model.model_validate(value, context={"folder": folder})
    except ValidationError as error:
        errors = error.errors()
        more = f"; and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
        raise ConfigError(
            f"{what}: "
            + "; ".join(_explain(model, dict(e), value) for e in errors[:MAX_ERRORS])
            + more
        ) from error
    # pydantic passes these on, for numbers or nesting beyond what its validators can handle
    except (OverflowError, RecursionError, TypeError) as error:
        raise ConfigError(
            f"{what}: a value cannot be validated ({type(error).__name__}: {error})",
            "fix the file",
        ) from error


def load(
    model: type[M],
    path: str | Path | StorePath,
    change: Callable[[Any], Any] = lambda value: value,
) -> M:
    """Read a YAML file into a model.

    Args:
        model: the model.
        path: the file; a local one may be a pipe.
        change: called with the content of the file; returns what is validated.
    Raises:
        ConfigError, MissingError, StoreError.
    """
    store_path = StorePath.at(path)
    try:
        # a local path may be a pipe, which pyarrow cannot read
        data = store_path.local.read_bytes() if store_path.local else store_path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(
            f"Configuration not found: {path}", "give the path of a YAML file"
        ) from error
    except OSError as error:
        raise StoreError(
            f"Configuration {path} cannot be read ({error})", "give the path of a YAML file"
        ) from error
    value = read_yaml(data, f"Configuration {path}")
    value = change({} if value is None else value)
    return parse(model, value, str(path), store_path.parent)


def read_yaml(data: str | bytes, what: str) -> Any:
    """The value of a YAML document; `what` is its name in the message. Raises ConfigError."""
    try:
        return yaml.load(data, _Loader)
    # PyYAML passes on whatever int(), datetime and others raise for a value that fails its tag
    except Exception as error:
        raise ConfigError(f"{what} is not valid YAML ({error})", "correct it") from error


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys; PyYAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and check its keys, before `<<` adds keys that it may override."""
        node = super().compose_mapping_node(anchor)
        keys = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} occurs twice", key.start_mark
                    )
                keys.add(key.value)
        return node


def _explain(model: type[BaseModel], error: dict[str, Any], value: Any) -> str:
    field, given = _path(error["loc"], value) or "the document", _SHORT.repr(error["input"])
    if error["type"] == "extra_forbidden":
        unknown = str(error["loc"][-1])
        others = [name for name in _field_names(model) if name != unknown]
        close = get_close_matches(unknown, others, n=1)
        return f"field {field!r} (value {given}) is unknown; " + (
            f"did you mean {close[0]!r}?" if close else "remove it"
        )
    if error["type"] == "missing":
        return f"field {field!r} is missing; add it"
    if error.get("ctx", {}).get("pattern") == _NAME_PATTERN:
        return (
            f"field {field!r} has the value {given}: names use letters, digits, _ and -, "
            "at most 64, and begin with a letter or digit"
        )
    return f"field {field!r} has the value {given}: {error['msg'].removeprefix('Value error, ')}"


def _path(loc: tuple[str | int, ...], value: Any) -> str:
    """Dotted path of an error in the document.

    pydantic inserts the names of union members into `loc`; the document does not contain them.
    """
    parts = []
    for i, part in enumerate(loc):
        in_document = (isinstance(value, dict) and part in value) or (
            isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        )
        # the last part may name a missing field
        if in_document or (i + 1 == len(loc) and isinstance(value, dict)):
            parts.append(str(part))
            value = value[part] if in_document else None
    return ".".join(parts)


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        for part in _models_in(field.annotation):
            names += _field_names(part)
    return names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
