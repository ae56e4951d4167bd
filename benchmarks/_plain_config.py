"""Minimal replacements of pydantic and PyYAML, used if they are not installed.

Import this module before `pipeline`. It supports what the configuration of a benchmark needs:
defaults, nested models, validators of mode "before", dumps and copies. It validates no values and
reads no YAML.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

ConfigDict = dict
ValidationInfo = SimpleNamespace
ByteSize = int
JsonValue = Any


class ValidationError(ValueError):
    """Never raised."""


class Field:
    """The default of a field, created at each access of the attribute. Ignores constraints."""

    def __init__(
        self, default: Any = None, default_factory: Any = None, alias: str = "", **_: Any
    ) -> None:
        self.make, self.alias = default_factory or (lambda: default), alias

    def __get__(self, *_: Any) -> Any:
        return self.make()


class Before(classmethod):
    """Marks a validator of mode "before"."""


class AfterValidator:
    """Validates nothing."""

    def __init__(self, validate: Any) -> None:
        pass


def model_validator(*, mode: str) -> Any:
    """Register a validator of mode "before"; one of mode "after" only checks and is ignored."""
    return lambda method: Before(method.__func__) if mode == "before" else method


class BaseModel(SimpleNamespace):
    """A namespace with the annotated fields. Raises TypeError for unknown fields."""

    def __init__(self, **values: Any) -> None:
        model, kinds = type(self), get_type_hints(type(self))
        for validator in (
            value
            for cls in model.__mro__
            for value in vars(cls).values()
            if isinstance(value, Before)
        ):
            info = SimpleNamespace(context=None)
            wanted = validator.__func__.__code__.co_argcount
            values = validator.__func__(*(model, values, info)[:wanted])
        aliases = {
            field.alias: name for name, field in vars(model).items() if isinstance(field, Field)
        }
        values = {aliases.get(key, key): value for key, value in values.items()}
        if unknown := values.keys() - kinds.keys():
            raise TypeError(f"Unknown fields of {model.__name__}: {', '.join(sorted(unknown))}")
        super().__init__(
            **{
                name: _built(kind, values[name]) if name in values else getattr(model, name)
                for name, kind in kinds.items()
            }
        )

    @classmethod
    def model_validate(cls, value: Any, context: Any = None) -> Any:
        return value if isinstance(value, cls) else cls(**value)

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Any = None,
        exclude: Any = (),
        exclude_defaults: bool = False,
    ) -> dict[str, Any]:
        return {
            name: _dumped(value, mode)
            for name, value in vars(self).items()
            if name in (include or vars(self))
            and name not in exclude
            and not (exclude_defaults and value == getattr(type(self), name, None))
        }

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        return type(self)(**vars(self) | update)


def _built(kind: Any, value: Any) -> Any:
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind(**value)
    if isinstance(value, dict) and get_origin(kind) is dict:
        return {key: _built(get_args(kind)[1], item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) and get_origin(kind) is tuple else value


def _dumped(value: Any, mode: str) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode=mode)
    if isinstance(value, dict):
        return {key: _dumped(item, mode) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) and mode == "json" else value


STAND_INS: list[str] = []
"""Names of the modules that were replaced."""
_YAML = module_from_spec(ModuleSpec("yaml", None))
vars(_YAML).update(SafeLoader=object, MappingNode=object)
for name, module in {"pydantic": sys.modules[__name__], "yaml": _YAML}.items():
    try:
        import_module(name)
    except ImportError:
        sys.modules[name] = module
        STAND_INS.append(name)
