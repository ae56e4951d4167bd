"""MkDocs hooks that write the reference pages from the code while the site is built.

So they cannot be out of date. A line `<!-- reference: NAME -->` in a page is replaced by the text
of that name in REFERENCES. README.md, CONTRIBUTING.md and CHANGELOG.md become pages, too.
"""

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from pipeline.decode.config import DecodeConfig, ModalitySpec
from remix.cli import app as command_line
from service.app import create_app
from service.settings import Settings
from trainer.config import RunConfig

ROOT = Path(__file__).parents[1]
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
TYPES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "`true` or `false`",
    ByteSize: "bytes, such as `500MB` or `20GiB`",
    types.NoneType: "`null`",
    Any: "any",
}
NEEDS = {
    "cluster": "Needs a cluster",
    "gpu": "Needs a GPU",
    "data": "Needs a data set that Remix does not contain",
    "long": "Takes minutes",
    "install": "Changes what is installed",
}
"""The marks of a console block whose commands no test runs, and its title on the site."""


def type_text(annotation: Any, bounds: tuple[Any, ...] = ()) -> str:
    """The values that an annotation allows, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(inner[0], inner[1:])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(each) for each in inner))
    if origin is tuple and inner[-1] is not ...:
        return f"{len(inner)} of {type_text(inner[0])}"
    if origin in (tuple, list):
        return f"list of {type_text(inner[0])}"
    if origin is dict:
        return f"mapping of names to {type_text(inner[1])}"
    if any(getattr(each, "pattern", None) for each in bounds):
        return "name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "fields, see below"
    limits = [
        f"{sign} {getattr(each, name)}"
        for name, sign in BOUNDS.items()
        for part in bounds
        for each in [part, *getattr(part, "metadata", ())]
        if getattr(each, name, None) is not None
    ]
    return " ".join([TYPES.get(annotation, str(annotation)), ", ".join(limits)]).strip()


def default_text(field: FieldInfo, value: Any) -> str:
    """The default of a field as it is written in YAML."""
    return "required" if field.is_required() else f"`{json.dumps(value, default=str)}`"


def table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table; line breaks and bars in a cell are escaped."""
    lines = [list(header), ["---"] * len(header), *rows]
    cells = [[" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field contains, at any depth of its annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def config_models() -> dict[str, tuple[type[BaseModel], str]]:
    """Each model of the two configuration files by the path of its fields, under the file's name.

    Modalities are listed by kind; `model.encoders.NAME` has the fields of `model.encoder`.
    """
    found: dict[str, tuple[type[BaseModel], str]] = {}

    def add(model: type[BaseModel], path: str, file: str) -> None:
        found[f"{file}:{path}"] = (model, path)
        for name, field in model.model_fields.items():
            for part in models_in(field.annotation):
                if part is DecodeConfig or name in ("modalities", "encoders"):
                    continue
                add(part, f"{path}.{name}".lstrip("."), file)

    add(DecodeConfig, "", "decode")
    for spec in get_args(get_args(ModalitySpec)[0]):
        kind = get_args(spec.model_fields["kind"].annotation)[0]
        add(spec, f"modalities.NAME, kind {kind}", "decode")
    add(RunConfig, "", "run")
    return found


def _values(path: str, preset: str) -> Mapping[str, Any]:
    """The values that take effect in a run's file that names only a preset."""
    value: Any = RunConfig.model_validate({"name": "x", "features": "x", "preset": preset})
    value = value.model_dump(mode="json")
    for name in path.split(".") if path else []:
        value = (value or {}).get(name) or {}
    return dict(value)


def configuration(file: str) -> str:
    """The fields of a run's file (`run`) or of a decode file (`decode`), a table per section."""
    parts = []
    for key, (model, path) in config_models().items():
        if not key.startswith(f"{file}:"):
            continue
        small, paper = (_values(path, each) if file == "run" else {} for each in ("small", "paper"))
        rows = []
        for name, field in model.model_fields.items():
            if name == "kind" and file == "decode":  # the title names it
                continue
            fallback = field.get_default(call_default_factory=True)
            is_model = isinstance(fallback, BaseModel)
            default = default_text(field, small.get(name, fallback)) if not is_model else ""
            if not is_model and paper.get(name) != small.get(name) and name != "preset":
                default += f"; `paper`: {default_text(field, paper[name])}"
            kind = type_text(field.annotation, tuple(field.metadata))
            nested = models_in(field.annotation)
            about = nested[0].__doc__ if len(nested) == 1 else ""
            rows.append([f"`{name}`", kind, default, field.description or about or ""])
        title = f"`{path}`" if path else "Top level"
        heading = f"### {title} {{ #{file}-{slug(path)} }}"
        columns = ("field", "values", "default", "meaning")
        parts += [heading, " ".join((model.__doc__ or "").split()), table(columns, rows)]
    return "\n\n".join(parts)


def slug(text: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "top"


def all_commands(group: Any = None, path: str = "remix") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, such as `remix import table`."""
    for name, command in (group or typer.main.get_command(command_line.app)).commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def shown_default(option: Any) -> str:
    """The default of an option as `--help` shows it."""
    if isinstance(getattr(option, "show_default", None), str):
        return f"`{option.show_default}`"
    if option.required:
        return "required"
    value = option.default
    if callable(value) or value in (None, "", [], ()) or isinstance(value, bool):
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


def commands() -> str:
    """Each command with its arguments and options."""
    parts = []
    for name, command in all_commands():
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option"]
        usage = " ".join([name, *(argument_text(each) for each in arguments)])
        text = f"## {name}\n\n{' '.join((command.help or '').split())}\n\n```text\n{usage}\n```"
        described = [
            [f"`{argument_text(each)}`", each.help]
            for each in arguments
            if getattr(each, "help", "")
        ]
        if described:
            text += f"\n\n{table(('argument', 'meaning'), described)}"
        rows = [
            [f"`{max(each.opts, key=len)}`", shown_default(each), each.help or ""]
            for each in options
            if "--help" not in each.opts
        ]
        parts.append(f"{text}\n\n{table(('option', 'default', 'meaning'), rows)}")
    return "\n\n".join(parts)


def argument_text(argument: Any) -> str:
    """An argument as the usage line shows it."""
    name = argument.name.upper()
    return f"{name if argument.required else f'[{name}]'}{'...' if argument.nargs == -1 else ''}"


def openapi() -> dict[str, Any]:
    """The service's OpenAPI document."""
    return create_app(Settings(store=str(ROOT), token=None)).openapi()


def schema_text(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words; objects are links to their tables."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{title_of(name)}](#{slug(name)})"
    if "anyOf" in schema:
        return " or ".join(schema_text(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {schema_text(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {schema_text(schema['additionalProperties'])} by name"
    return str(schema.get("format") or schema.get("type") or "any value")


def title_of(name: str) -> str:
    """`Page[RunSummary | Damage]` for the schema `Page_Union_RunSummary__Damage__`."""
    kind, *items = [part for part in re.split(r"_+", name) if part and part != "Union"]
    return f"{kind} of {' or '.join(items)}" if items else kind


def http_api() -> str:
    """Each operation with its parameters and response, then each object with its fields."""
    document, parts = openapi(), []
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            parts.append(f"### {verb.upper()} {path}\n\n{operation.get('description', '')}")
            rows = [
                [
                    f"`{each['name']}`",
                    each["in"],
                    schema_text(each["schema"]),
                    parameter_default(each),
                    each.get("description", ""),
                ]
                for each in operation.get("parameters", [])
            ]
            if rows:
                columns = ("parameter", "in", "type", "default", "meaning")
                parts.append(table(columns, rows))
            responses = []
            for status, response in operation["responses"].items():
                if int(status) >= 400:  # the page describes errors once
                    continue
                for media, content in response.get("content", {}).items():
                    kind = schema_text(content.get("schema", {}))
                    responses.append([status, f"`{media}`", kind, response.get("description", "")])
                if not response.get("content"):
                    responses.append([status, "", "", response.get("description", "")])
            parts.append(table(("status", "media type", "content", "meaning"), responses))
    parts.append("## Objects")
    for name, schema in document["components"]["schemas"].items():
        rows = [
            [f"`{field}`", schema_text(kind), kind.get("description", "")]
            for field, kind in schema.get("properties", {}).items()
        ]
        heading = f"### {title_of(name)} {{ #{slug(name)} }}"
        parts.append(f"{heading}\n\n{schema.get('description', '')}")
        parts.append(table(("field", "type", "meaning"), rows))
    return "\n\n".join(parts)


def parameter_default(parameter: Mapping[str, Any]) -> str:
    """The default of a parameter of an operation."""
    value = parameter["schema"].get("default")
    return "required" if parameter.get("required") else "" if value is None else f"`{value}`"


REFERENCES: Mapping[str, Callable[[], str]] = {
    "run": lambda: configuration("run"),
    "decode": lambda: configuration("decode"),
    "commands": commands,
    "http": http_api,
}


def filled(markdown: str) -> str:
    """A page with its references written out, and console blocks as MkDocs understands them."""
    text = re.sub(
        r"^<!-- reference: (\w+) -->$", lambda at: REFERENCES[at[1]](), markdown, flags=re.MULTILINE
    )
    text = re.sub(r"^```console$", "```bash", text, flags=re.MULTILINE)
    return re.sub(
        r"^```console (\w+)$",
        lambda at: f'```bash title="{NEEDS[at[1]]}"',
        text,
        flags=re.MULTILINE,
    )


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are stored at the root of the repository."""
    from mkdocs.structure.files import File

    pages = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
    pages["CHANGELOG.md"] = "changelog.md"
    for source, name in pages.items():
        text = (ROOT / source).read_text("utf-8").replace("](docs/", "](")
        for other, page in pages.items():
            text = text.replace(f"]({other}", f"]({page}")
        text = text.replace("[Apache-2.0](LICENSE)", "Apache-2.0")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Write out the references of a page."""
    return filled(markdown)
