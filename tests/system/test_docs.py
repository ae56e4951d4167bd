"""The documentation agrees with the code: pages, generated references, tables and examples."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import remix
from pipeline import errors
from pipeline.config import parse
from pipeline.decode.config import DecodeConfig
from pipeline.storage import schemas as schema
from remix.cli import app as command_line
from service.settings import Settings
from tests.support.documentation import (
    CONTRIBUTING,
    PAGES,
    README,
    ROOT,
    blocks,
    console_lines,
    reference,
    section,
    table_rows,
)
from trainer.comparison.methods import METHODS, POLICIES
from trainer.config import RunConfig

COMMANDS = dict(reference.all_commands())


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200
    assert len(README.encode()) <= 12 * 1024
    assert [line for line in README.splitlines() if len(line) > 100 and line[0] != "|"] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert set(listed) == {*PAGES, "index.md", "contributing.md", "changelog.md"}


def test_the_site_builds_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    loaded = re.compile(r"<(?:link|script|img|iframe|source)\b[^>]*(?:src|href)=.?(?:https?:)?//")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    assert [str(page) for page in pages if loaded.search(page.read_text("utf-8"))] == []
    assert [
        str(style)
        for style in tmp_path.rglob("*.css")
        if re.search(r"url\(.?https?:|@import", style.read_text("utf-8"))
    ] == []


def test_every_page_with_a_reference_is_filled() -> None:
    used = [
        name
        for text in PAGES.values()
        for name in re.findall(r"^<!-- reference: (\w+) -->$", text, re.MULTILINE)
    ]
    assert sorted(used) == sorted(reference.REFERENCES)


def test_every_configuration_field_is_described() -> None:
    pages = {file: reference.configuration(file) for file in ("run", "decode")}
    missing = []
    for key, (model, path) in reference.config_models().items():
        file = key.split(":")[0]
        anchor = f"{{ #{file}-{reference.slug(path)} }}"
        described = table_rows(pages[file].split(anchor)[1].split("\n### ")[0])
        names = [name for name in model.model_fields if (file, name) != ("decode", "kind")]
        missing += [f"{key} {name}" for name in names if not described[name][-1]]
    assert missing == []


def test_every_command_is_described_with_its_options() -> None:
    page, missing = reference.commands(), []
    assert table_rows(section(README, "## Commands")).keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        described = table_rows(section(f"\n{page}", f"## {name}"))
        if not command.help:
            missing.append(name)
        for option in command.params:
            flag = max(option.opts, key=len)
            if option.param_type_name == "option" and not described[flag][-1]:
                missing.append(f"{name} {flag}")
            if option.param_type_name == "argument" and not option.help:
                missing.append(f"{name} {option.name}")
    assert missing == []


def test_the_help_of_every_command_has_examples_that_can_be_typed() -> None:
    for name, command in COMMANDS.items():
        _, *examples = command.epilog.split("\n\n")
        assert examples, name
        for example in examples:
            arguments = shlex.split(example)
            words = name.split()
            assert arguments[: len(words)] == words
            command.make_context(name, arguments[len(words) :])  # raises UsageError


def test_the_help_begins_with_the_demo_and_every_command_is_in_a_group() -> None:
    assert next(iter(COMMANDS)) == "remix demo"
    assert [name for name, each in command_line.PANELS.items() if not each] == []


def test_every_operation_of_the_service_is_described() -> None:
    page = reference.http_api()
    for path, operations in reference.openapi()["paths"].items():
        for verb, operation in operations.items():
            text = page.split(f"### {verb.upper()} {path}\n")[1].split("\n### ")[0].strip()
            assert text[0] != "|", path
            described = table_rows(text)
            for parameter in operation.get("parameters", []):
                assert described[parameter["name"]][-1], (path, parameter["name"])


def test_the_python_api_has_every_public_name() -> None:
    text = PAGES["python-api.md"]
    documented = re.findall(r"^::: remix\.(\w+)$", text, re.MULTILINE)
    assert sorted([*documented, "__version__"]) == sorted(remix.__all__)
    assert "`remix.__version__`" in text


def test_the_settings_of_the_service_are_listed_with_their_defaults() -> None:
    settings = table_rows(section(PAGES["http-api.md"], "## Settings"))
    assert set(settings) == {f"REMIX_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        shown = settings[f"REMIX_{name.upper()}"][1]
        assert field.default is None or shown == f"`{field.default}`"


def test_the_tree_has_every_folder_and_no_other() -> None:
    tree, folders = set(), [""]
    text = section(PAGES["architecture.md"], "## The repository").split("```")[1]
    for line in text.splitlines()[1:]:
        entry = re.fullmatch(r"( *)(\S+) +\S.*", line)
        assert entry, f"no remark: {line}"
        folders = folders[: len(entry[1]) // 2 + 1]
        folders.append(folders[-1] + entry[2])
        tree.add(folders[-1])
    roots = ("remix/", "pipeline/", "trainer/", "service/")
    packages = [path.parent for root in roots for path in (ROOT / root).rglob("__init__.py")]
    expected = {f"{path.relative_to(ROOT).as_posix()}/" for path in packages} | {"service/page/"}
    assert {name for name in tree if name.startswith(roots)} == expected
    assert all((ROOT / name).exists() for name in tree)


def test_the_tour_names_existing_functions() -> None:
    tour = section(CONTRIBUTING, "## A tour in ten minutes")
    stops = re.findall(r"\| `(\S+\.py)` \| `(\w+)` \|$", tour, re.MULTILINE)
    assert len(stops) > 10
    for file, name in stops:
        source = (ROOT / file).read_text("utf-8")
        assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), (file, name)


def test_files_that_pages_name_exist() -> None:
    text = CONTRIBUTING + PAGES["architecture.md"] + PAGES["damage.md"] + PAGES["faults.md"]
    roots = "remix|pipeline|trainer|service|tests|benchmarks|deploy|docs"
    named = set(re.findall(rf"`((?:{roots})/[\w/.-]+?)[`\s:]", text))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_every_command_of_a_page_can_be_typed(page: str) -> None:
    """Options and arguments are parsed; tests/system/test_docs_commands.py runs unmarked blocks."""
    texts = {"README.md": README, "CONTRIBUTING.md": CONTRIBUTING} | PAGES
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", texts[page])) <= targets
    for mark, line in console_lines(texts[page]):
        assert mark in ("", *reference.NEEDS), line
        if line.startswith("remix "):
            name = max((name for name in COMMANDS if f"{line} ".startswith(f"{name} ")), key=len)
            arguments = shlex.split(line.removeprefix(name))
            COMMANDS[name].make_context(name, arguments)  # raises UsageError
        elif line.startswith("make "):
            assert line.removeprefix("make ") in targets, line
        else:
            assert mark, f"only remix and make in a block without a mark: {line}"
        for script in re.findall(r"\b(?:benchmarks|tests|docs)/\S+\.py", line):
            assert (ROOT / script).exists(), line


def test_the_examples_of_yaml_are_valid() -> None:
    models: dict[str, Any] = {"name": RunConfig, "modalities": DecodeConfig}
    texts = [README, *PAGES.values()]
    values = [yaml.safe_load(block) for text in texts for block in blocks(text, "yaml")]
    assert {type(parse(models[next(iter(value))], value, "page")) for value in values} == set(
        models.values()
    )


def test_methods_columns_and_reasons_are_those_of_the_code() -> None:
    methods, artifacts = PAGES["methods.md"], PAGES["artifacts.md"]
    assert list(table_rows(section(methods, "## Methods"))) == list(METHODS)
    assert list(table_rows(section(methods, "## Policies"))) == list(POLICIES)
    schemas = {
        name: getattr(schema, f"{name}_schema")(["<m>"])
        for name in ("samples", "scores", "steps", "epochs")
    }
    schemas |= {"rejected": schema.REJECTED, "plans": schema.MIXED_PLAN}
    documented = {
        name: set(re.findall(r"`(.+?)`", cells[2]))
        for name, cells in table_rows(section(artifacts, "## Tables")).items()
    }
    assert documented == {name: set(each.names) for name, each in schemas.items()}
    reasons = artifacts.split("Reasons in `rejected.arrow`:")[1].split(".\n")[0]
    assert set(re.findall(r"`(\w+)`", reasons)) == set(errors.REASONS)


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
    """Links of the pages in docs/ are checked by the build of the site."""
    for text in (README, CONTRIBUTING):
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("https://") or (ROOT / link).exists(), link
