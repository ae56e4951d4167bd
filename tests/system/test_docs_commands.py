"""The commands and Python examples of the documentation are run, on a small store.

Commands of one page after the other run in one folder, each once. `make` targets are only expanded
(`make --dry-run`). Blocks with a mark (`console cluster`, see CONTRIBUTING.md) are not run.
"""

import csv
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.documentation import PAGES, README, ROOT, blocks, console_lines
from tests.support.media_files import encode_clip, tone
from tests.support.serving import serve_command
from tests.support.stores import Command, make_features, run_config
from trainer.config_values import merge
from trainer.launch import launch

SMALL = {
    "model": {"encoder": {"kind": "cnn", "width": 4}},
    "train": {"epochs": 2, "warmup_epochs": 1, "batch_size": 8},
}
"""What is smaller here than in the run file of the documentation."""


def _manifest(folder: Path) -> None:
    """The CSV of `Your data`, with 24 clips of six speakers."""
    rows = []
    for i in range(24):
        clip = folder / "clips" / f"{i:02d}.mp4"
        clip.parent.mkdir(exist_ok=True)
        clip.write_bytes(encode_clip(8, sound=tone(220 * (1 + i % 2), 1), size=(32, 32)))
        split = "test" if i % 6 == 5 else "train"
        path = clip.relative_to(folder).as_posix()
        rows.append([f"s{i:02d}", split, f"word{i % 2}", path, path, f"speaker{i // 2 % 6}"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        header = ["sample_id", "split", "label", "audio_path", "video_path", "speaker"]
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the documentation assumes: a CSV, the run file, and a run of the demo."""
    monkeypatch.chdir(tmp_path)
    _manifest(tmp_path)
    [words] = {yaml.safe_load(block)["name"]: block for block in blocks(README, "yaml")}.values()
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(merge(yaml.safe_load(words), SMALL)))
    store = tmp_path / "store"
    make_features(store / "features" / "demo")
    epochs: dict[str, Any] = {"epochs": 12, "warmup_epochs": 4, "batch_size": 32}
    launch(run_config(store, name="demo-remix-seed0", features="demo", train=epochs))
    return tmp_path


def test_the_commands_of_the_documentation_run(
    folder: Path, command: Command, ray_cluster: None
) -> None:
    done = set[str]()
    for page, text in {"README.md": README, **_in_order()}.items():
        for mark, line in console_lines(text):
            if mark or line in done:
                continue
            done.add(line)
            _run(line, folder, command, page)
        for block in blocks(text, "python") if page != "recipes.md" else []:  # test_recipes.py does
            if "PlanBatchSampler(" not in block:  # test_plan_batch_sampler_url.py runs that one
                exec(compile(block, page, "exec"), {"__name__": "page"})
    assert len(done) > 20


def _in_order() -> dict[str, str]:
    """The pages of docs/ in the order of the navigation."""
    names = re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    return {name: PAGES[name] for name in names if name in PAGES}


def _run(line: str, folder: Path, command: Command, page: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        ended = subprocess.run(
            ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
    elif arguments[0] == "serve":
        with serve_command(*arguments[1:], log=folder / "serve.log"):
            pass
    else:
        code, _, err = command(*arguments)
        assert code == 0, f"{page}: {line}: {err}"
