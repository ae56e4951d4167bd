"""Configurations: strict models, the YAML files that they are read from, and their errors."""

from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, MissingError, StoreError
from pipeline.storage.store_path import StorePath

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""A modality, run or feature set: it becomes a file name, a column name and a part of a URL."""

M = TypeVar("M", bound=BaseModel)
MAX_TOLD = 20
"""Errors of one file that are told."""
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 10


class StrictModel(BaseModel):
    """A frozen part of a configuration; a field that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse(model: type[M], value: Any, what: str) -> M:
    """Checks a mapping against a model (raises ConfigError naming field, value and cure)."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors()
        more = f"; and {len(found) - MAX_TOLD} more" if len(found) > MAX_TOLD else ""
        raise ConfigError(
            f"{what}: "
            + "; ".join(_explain(model, dict(e), value) for e in found[:MAX_TOLD])
            + more
        ) from error
    except (OverflowError, RecursionError, TypeError) as error:
        raise ConfigError(
            f"{what}: a value is out of all range ({type(error).__name__}: {error})",
            "mend the file",
        ) from error


def load(model: type[M], path: str | Path | StorePath) -> M:
    """Reads a YAML file into a model (raises ConfigError, MissingError, StoreError)."""
    store_path = StorePath.at(path)
    try:
        # a local path may be a pipe, which pyarrow cannot read
        data = store_path.local.read_bytes() if store_path.local else store_path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(
            f"config {path} does not exist", "give the path of a YAML file"
        ) from error
    except OSError as error:
        raise StoreError(
            f"config {path} cannot be read ({error})", "give the path of a YAML file"
        ) from error
    try:
        value = yaml.load(data, _Loader)
    # PyYAML lets through what int(), datetime and others raise for a value that does not fit its tag
    except Exception as error:
        raise ConfigError(
            f"config {path} is not readable YAML ({error})", "mend the file"
        ) from error
    return parse(model, value if value is not None else {}, str(path))


class _Loader(yaml.SafeLoader):
    """Plain data; a key that occurs twice in a mapping is an error that names its line."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as it is written, before `<<` adds keys that it may override."""
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
        close = get_close_matches(str(error["loc"][-1]), _field_names(model), n=1)
        return f"field {field!r} (value {given}) is unknown; " + (
            f"did you mean {close[0]!r}?" if close else "remove it"
        )
    if error["type"] == "missing":
        return f"field {field!r} is missing; add it"
    return f"field {field!r} has the value {given}: {error['msg'].removeprefix('Value error, ')}"


def _path(loc: tuple[str | int, ...], value: Any) -> str:
    """Where in the document an error is: pydantic's path without its names of union members, which the document does not have."""
    parts = []
    for i, part in enumerate(loc):
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        )
        if inside or (i + 1 == len(loc) and isinstance(value, dict)):
            parts.append(str(part))
            value = value[part] if inside else None
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
