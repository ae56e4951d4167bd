"""Invalid YAML is refused with the file and the field, even if it is deep or circular."""

from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.decode.config import DecodeConfig
from pipeline.errors import ConfigError
from tests.support.refusals import refused
from tests.support.stores import Command

BAD_YAML: dict[str, tuple[bytes, str]] = {
    "a circle": (b"modalities: &a {x: *a}\n", ""),
    "deep": (b"modalities: " + b"[" * 5_000, ""),
    "a long number": (b"max_rejected_share: " + b"9" * 5000, ""),
    "code": (
        b"modalities: !!python/object/apply:os.system ['exit 7']\n",
        "tag:yaml.org,2002:python/object/apply:os.system",
    ),
    "no UTF-8": (b"modalities: \xff\xfe\n", ""),
    "zeros": (b"modalities: \0\n", ""),
    "a key twice": (
        b"max_rejected_share: 0.1\nmax_rejected_share: 0.9\n",
        "max_rejected_share line 2",
    ),
    "a key twice in a list": (b"classes:\n- a\n- {b: 1, c: 2,\n   b: 3}\n", "b line 4"),
    "a key that is a list": (b"? [a]\n: b\n", ""),
    "NaN": (b"limits: {seconds: .nan}\n", "limits.seconds nan"),
    "a long value": (b"modalities: '" + b"x" * 10**6 + b"'\n", "modalities"),
    "many errors": (b"".join(b"f%d: 1\n" % i for i in range(5000)), "f0 f1 f2"),
    "a list": (b"[1, 2]\n", "[1, 2]"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_invalid_yaml(tmp_path: Path, command: Command, name: str) -> None:
    data, words = BAD_YAML[name]
    path = tmp_path / "decode.yaml"
    path.write_bytes(data)
    with refused(ConfigError, *words.split(), file=path) as error:
        load(DecodeConfig, path)
    assert len(str(error.value)) < 10_000
    assert command("train", path)[0] == 2


def test_anchors_and_merged_mappings_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "decode.yaml"
    path.write_text(
        "modalities:\n  a: &a {kind: tensor, member: npy, shape: [2]}\n  b: *a\n"
        "  c: &c {<<: *a, shape: [3]}\n  d: {<<: *c, member: [npz]}\n"
    )
    specs = load(DecodeConfig, path).modalities
    assert [getattr(spec, "shape", None) for spec in specs.values()] == [(2,), (2,), (3,), (3,)]
