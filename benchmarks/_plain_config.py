"""Stands in for pydantic and PyYAML where they cannot be imported, on a machine that only measures; to be imported before `pipeline`.

It does what the configuration of a benchmark needs: defaults, nested models by annotation, validators of mode "before", dumps and copies. It checks no
value: real validation is pydantic's, wherever Remix is installed. It reads no YAML.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

ConfigDict = dict
ByteSize = int


class ValidationError(ValueError):
    """Never raised."""


class Field:
    """A field's default, made anew at each access of the class's attribute; bounds and patterns are not kept."""

    def __init__(self, default: Any = None, default_factory: Any = None, **_: Any) -> None:
        self.make = default_factory or (lambda: default)

    def __get__(self, *_: Any) -> Any:
        return self.make()


class Before(classmethod):
    """A validator of mode "before"."""


def model_validator(*, mode: str) -> Any:
    """Marks a validator of mode "before"; one of mode "after" only checks, and does not run."""
    return lambda method: Before(method.__func__) if mode == "before" else method


class BaseModel(SimpleNamespace):
    """A namespace of the annotated fields; a field that it does not have is a TypeError."""

    def __init__(self, **given: Any) -> None:
        model, kinds = type(self), get_type_hints(type(self))
        for validator in (
            each for cls in model.__mro__ for each in vars(cls).values() if isinstance(each, Before)
        ):
            given = validator.__func__(model, given)
        if unknown := given.keys() - kinds.keys():
            raise TypeError(f"{model.__name__} has no {', '.join(sorted(unknown))}")
        super().__init__(
            **{
                name: _built(kind, given[name]) if name in given else getattr(model, name)
                for name, kind in kinds.items()
            }
        )

    @classmethod
    def model_validate(cls, value: Any) -> Any:
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
        return {key: _built(get_args(kind)[1], each) for key, each in value.items()}
    return tuple(value) if isinstance(value, list) and get_origin(kind) is tuple else value


def _dumped(value: Any, mode: str) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode=mode)
    if isinstance(value, dict):
        return {key: _dumped(each, mode) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) and mode == "json" else value


STAND_INS: list[str] = []
"""What could not be imported."""
_YAML = module_from_spec(ModuleSpec("yaml", None))
vars(_YAML).update(SafeLoader=object, MappingNode=object)
for name, module in {"pydantic": sys.modules[__name__], "yaml": _YAML}.items():
    try:
        import_module(name)
    except ImportError:
        sys.modules[name] = module
        STAND_INS.append(name)
