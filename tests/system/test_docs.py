"""The README and the docstrings say what the code does; these tests notice when they lag behind."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer.main
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline import errors
from pipeline.config import parse
from pipeline.decode.config import DecodeConfig, ModalitySpec, Spec
from pipeline.shards.limits import Limits
from pipeline.storage import schemas as schema
from remix.cli import app as command_line
from service.app import create_app
from service.settings import Settings
from trainer.comparison.methods import METHODS, POLICIES
from trainer.config import RunConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def section(title: str) -> str:
    return README.split(f"\n{title}\n")[1].split(f"\n{title.split()[0]} ")[0]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a text's tables by their first cell, which is code; each name once."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0].strip("`"): row for row in cells}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(group: Any, path: str = "remix") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield from (
            commands(command, f"{path} {name}")
            if hasattr(command, "commands")
            else [(f"{path} {name}", command)]
        )


COMMANDS = dict(commands(typer.main.get_command(command_line.app)))


def test_the_tree_has_every_folder_and_no_other() -> None:
    tree, folders = set(), [""]
    for line in section("## The repository").split("```")[1].splitlines()[1:]:
        found = re.fullmatch(r"( *)(\S+) +\S.*", line)
        assert found, f"no remark: {line}"
        folders = folders[: len(found[1]) // 2 + 1]
        folders.append(folders[-1] + found[2])
        tree.add(folders[-1])
    roots = ("remix/", "pipeline/", "trainer/", "service/")
    packages = [path.parent for root in roots for path in (ROOT / root).rglob("__init__.py")]
    expected = {f"{path.relative_to(ROOT).as_posix()}/" for path in packages} | {"service/page/"}
    assert {name for name in tree if name.startswith(roots)} == expected
    assert all((ROOT / name).exists() for name in tree)


def test_every_command_is_told_with_its_options_and_defaults() -> None:
    told = {
        " ".join(word for word in usage.split() if word.islower()): cells[2]
        for usage, cells in rows(section("## Commands")).items()
    }
    assert told.keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        options = {
            max(each.opts, key=len): each.default
            for each in command.params
            if each.param_type_name == "option"
        }
        assert set(re.findall(r"`(--[a-z-]+)", told[name])) == options.keys(), name
        for option, value in options.items():
            if isinstance(value, str | int | float | Path) and not isinstance(value, bool):
                assert f"`{option} {value}`" in told[name], name


def test_every_example_can_be_typed() -> None:
    for line in re.findall(r"^remix .*$", "".join(blocks("console")), re.MULTILINE):
        name = next(name for name in COMMANDS if f"{line} ".startswith(f"{name} "))
        COMMANDS[name].make_context(name, shlex.split(line.removeprefix(name)))  # raises UsageError


def test_the_make_targets_exist() -> None:
    makefile, pages = (
        (ROOT / "Makefile").read_text(),
        README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    )
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", pages, re.MULTILINE))
    assert {"demo", "test"} <= named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_every_address_and_setting_of_the_service_is_told() -> None:
    text = section("## The service")
    addresses = {
        address.split("?")[0]
        for line in text.splitlines()
        if line.startswith("| `/")
        for address in re.findall(r"`(/[^`]*)`", line.split(" | ")[0])
    }
    app = create_app(Settings(store=str(ROOT)))
    assert addresses - {"/openapi.json"} == set(app.openapi()["paths"])
    told = {name: cells[1] for name, cells in rows(text).items() if name.startswith("REMIX_")}
    assert set(told) == {f"REMIX_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        assert field.default is None or told[f"REMIX_{name.upper()}"] == f"`{field.default}`"


def test_the_examples_of_yaml_are_valid() -> None:
    models = {"name": RunConfig, "modalities": DecodeConfig}
    values = [yaml.safe_load(block) for block in blocks("yaml")]
    assert {type(parse(models[next(iter(value))], value, "README")) for value in values} == set(
        models.values()
    )


def leaves(model: BaseModel, prefix: str = "") -> dict[str, tuple[FieldInfo, Any]]:
    """Every field by its dotted path, with the value that it has in this model."""
    values = {
        prefix + name: (field, getattr(model, name))
        for name, field in type(model).model_fields.items()
    }
    nested = [
        leaves(value, f"{path}.")
        for path, (_, value) in values.items()
        if isinstance(value, BaseModel)
    ]
    return dict(
        pair
        for part in [values, *nested]
        for pair in part.items()
        if not isinstance(pair[1][1], BaseModel)
    )


def default(field: FieldInfo, value: Any) -> str:
    return "required" if field.is_required() else f"`{json.dumps(value)}`"


def untold(field: FieldInfo, told: str) -> list[str]:
    choices = re.findall(r"'(\w+)'", "".join(re.findall(r"Literal\[.*?\]", str(field.annotation))))
    bounds = [
        f"{sign} {getattr(each, name)}"
        for each in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(each, name)
    ]
    return [each for each in [*(f"`{choice}`" for choice in choices), *bounds] if each not in told]


def test_every_field_of_a_run_is_told_with_its_defaults() -> None:
    small, paper = (
        leaves(RunConfig.model_validate({"name": "x", "features": "x", "preset": preset}))
        for preset in ("small", "paper")
    )
    told = rows(section("### Run"))
    assert told.keys() == small.keys()
    for path, (field, value) in small.items():
        assert told[path][2:4] == [
            default(field, value),
            default(*paper[path]) if paper[path][1] != value else "",
        ], path
        assert untold(field, told[path][1]) == [], path


def test_every_field_of_decoding_is_told_with_its_default() -> None:
    fields = dict(DecodeConfig.model_fields) | {"member": Spec.model_fields["member"]}
    del fields["limits"]
    fields |= {f"limits.{name}": field for name, field in Limits.model_fields.items()}
    for spec in get_args(get_args(ModalitySpec)[0]):
        kind = get_args(spec.model_fields["kind"].annotation)[0]
        fields |= {
            f"{kind}.{name}": field
            for name, field in spec.model_fields.items()
            if name not in ("kind", "member")
        }
    told = rows(section("### Decode"))
    assert told.keys() == fields.keys()
    for path, field in fields.items():
        assert told[path][2] == default(field, field.default), path
        assert path == "modalities" or untold(field, told[path][1]) == [], path


def test_methods_columns_and_reasons_are_those_of_the_code() -> None:
    assert list(rows(section("## Methods"))) == list(METHODS)
    assert list(rows(section("## Policies"))) == list(POLICIES)
    schemas = {
        name: getattr(schema, f"{name}_schema")(["<m>"])
        for name in ("samples", "scores", "steps", "epochs")
    }
    schemas |= {"rejected": schema.REJECTED, "plans": schema.MIXED_PLAN}
    told = {
        name: set(re.findall(r"`(.+?)`", cells[2]))
        for name, cells in rows(section("## Artifacts")).items()
    }
    assert told == {name: set(each.names) for name, each in schemas.items()}
    assert set(
        re.findall(r"`(\w+)`", README.split("Reasons in `rejected.arrow`:")[1].split(". ")[0])
    ) == set(errors.REASONS)


def test_the_exceptions_are_drawn_as_they_are() -> None:
    drawn, above = {}, [("Exception", 0, 0)]
    for branch, name, remark in re.findall(
        r"^([│├└─ ]*)(\w+Error) {2,}(.+)$", errors.__doc__ or "", re.MULTILINE
    ):
        above = above[: len(branch) // 4 + 1]
        exit_code, status = re.search(r"exit code (\d+)", remark), re.search(r"HTTP (\d+)", remark)
        above.append(
            (
                name,
                int(exit_code[1]) if exit_code else above[-1][1],
                int(status[1]) if status else above[-1][2],
            )
        )
        drawn[name] = (above[-2][0], *above[-1][1:])
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.RemixError)
    ]
    assert drawn == {
        each.__name__: (each.__bases__[0].__name__, each.exit_code, each.http_status)
        for each in classes
    }


def test_links_lead_somewhere() -> None:
    assert [
        link
        for link in re.findall(r"\]\(([^)#]+)\)", README)
        if not link.startswith("https://") and not (ROOT / link).exists()
    ] == []
