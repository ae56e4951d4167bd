"""Configurations: strict models, the YAML files that they are read from, and their errors."""

from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, MissingError
from pipeline.storage.store_path import Place

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""A modality, run or feature set: it becomes a file name, a column name and a part of a URL."""

M = TypeVar("M", bound=BaseModel)
MAX_BYTES, MAX_NODES = 2**20, 10**6
"""Of a YAML file, and of the values in it."""
MAX_TOLD = 20
"""Errors of one file that are told."""
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 10


class Config(BaseModel):
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


def load(model: type[M], path: str | Path | Place) -> M:
    """Reads a YAML file into a model (raises ConfigError, MissingError, StoreError)."""
    try:
        data = _read(path)
        if len(data) > MAX_BYTES:
            raise ConfigError(
                f"config {path} has more than {MAX_BYTES} bytes",
                "give a YAML file that a person wrote",
            )
        value = yaml.load(data.decode(), _Loader)
    except FileNotFoundError as error:
        raise MissingError(
            f"config {path} does not exist", "give the path of a YAML file"
        ) from error
    except (
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise ConfigError(
            f"config {path} is not readable YAML ({error})", "mend the file"
        ) from error
    return parse(model, value if value is not None else {}, str(path))


def _read(path: str | Path | Place) -> bytes:
    """A file, of which no more than MAX_BYTES + 1 bytes where it is local."""
    local = path.local if isinstance(path, Place) else Path(path)
    if local is None:
        return Place.at(path).read_bytes()
    with local.open("rb") as file:
        return file.read(MAX_BYTES + 1)


class _Loader(yaml.SafeLoader):
    """Plain data; keys that occur twice and aliases that multiply are refused."""

    def get_single_data(self) -> Any:
        """The one document of the file."""
        node = self.get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        return self.construct_document(node)


def _check_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """The nodes below and with a node, aliases as often as they are used; no mapping has a key twice (raises YAMLError)."""
    known = sizes.get(id(node), 0)
    if known is None:
        raise yaml.YAMLError("an alias leads into itself")
    if known:
        return known
    sizes[id(node)] = None
    keys = (
        Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if isinstance(node, yaml.MappingNode)
        else Counter[str]()
    )
    if keys and keys.most_common(1)[0][1] > 1:
        raise yaml.constructor.ConstructorError(
            "while reading a mapping",
            node.start_mark,
            f"the key {keys.most_common(1)[0][0]!r} occurs twice",
        )
    below = (
        [each for pair in node.value for each in pair]
        if isinstance(node, yaml.MappingNode)
        else node.value
        if isinstance(node, yaml.SequenceNode)
        else []
    )
    size = 1 + sum(_check_size(each, sizes) for each in below)
    if size > MAX_NODES:
        raise yaml.YAMLError(
            f"it has more than {MAX_NODES} values, aliases as often as they are used"
        )
    sizes[id(node)] = size
    return size


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
