"""The running service conforms to its OpenAPI document: checked by schemathesis."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.plans.plan import BatchPlan
from tests.support.serving import serving

SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
KNOWN = """
[parameters]
run = "demo-remix-seed0"
epoch = {epoch}
name = "{name}"
sample_id = "s0003"
suffix = "mp4"
row = 3
modality = "sound"
fingerprint = "{fingerprint}"
"""


@pytest.mark.parametrize(("epoch", "name", "token"), [(2, "made", None), (0, "demo", "secret")])
def test_every_response_is_described(
    trained_store: Path, tmp_path: Path, epoch: int, name: str, token: str | None
) -> None:
    config = tmp_path / "schemathesis.toml"
    plan = trained_store / "runs" / "demo-remix-seed0" / "plans" / f"epoch-{epoch:04d}.arrow"
    fingerprint = BatchPlan.open(plan).fingerprint
    config.write_text(KNOWN.format(epoch=epoch, name=name, fingerprint=fingerprint))
    with serving(trained_store, token=token) as url:
        command = [
            SCHEMATHESIS,
            "--config-file",
            str(config),
            "run",
            f"{url}/openapi.json",
            "--max-examples",
            "10",
            "--seed",
            "1",
            "--no-color",
        ]
        if token:
            command += ["--header", f"Authorization: Bearer {token}"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "Tested: 34" in ended.stdout
