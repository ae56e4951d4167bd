"""Decoding in a child process: same results as in-process, and isolation of failures."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.decode.config import AudioSpec, ImageSpec, TensorSpec, VideoSpec
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.sandbox.sandbox import Sandbox, sandbox_for
from pipeline.errors import RemixError, SampleError
from pipeline.shards.limits import Limits
from tests.support.media_files import SAMPLE_RATE, encode_clip, encode_image, encode_npy, tone

SPECS = {
    "film": VideoSpec(kind="video", member="mp4", frames=4, size=32),
    "sound": AudioSpec(kind="audio", member="mp4", seconds=0.5),
    "picture": ImageSpec(kind="image", member="png", size=24),
    "numbers": TensorSpec(kind="tensor", member="npy", shape=(3, 2)),
}
SMALL = {"numbers": TensorSpec(kind="tensor", member="npy", shape=(3, 2))}
LIMITS = Limits(timeout=60, memory=2**27)
HASTY = Limits(timeout=0.5, memory=2**27)
HOSTILE = "tests.support.hostile_decoders:mixed"


@pytest.fixture(scope="module")
def hostile() -> Iterator[Sandbox]:
    with Sandbox(SMALL, LIMITS, entry=HOSTILE) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def hasty() -> Iterator[Sandbox]:
    """A sandbox with a timeout so short that it is only for decoders that hang."""
    with Sandbox(SMALL, HASTY, entry=HOSTILE) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def real() -> Iterator[Sandbox]:
    with Sandbox(SPECS, Limits()) as sandbox:
        yield sandbox


def members() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return {
        "mp4": encode_clip(sound=tone(440, 1.0)),
        "png": encode_image(pixels),
        "npy": encode_npy(np.arange(6.0).reshape(3, 2)),
    }


def assert_equal(
    actual: dict[str, np.ndarray | None], expected: dict[str, np.ndarray | None]
) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        if array is None:
            assert actual[name] is None
        else:
            assert (actual[name].dtype, actual[name].shape, actual[name].tobytes()) == (
                array.dtype,
                array.shape,
                array.tobytes(),
            )


def is_healthy(sandbox: Sandbox) -> bool:
    array = sandbox.decode({"x": b"ok"})["numbers"]
    return array is not None and (array == 2).all()


def test_same_arrays_as_in_this_process(real: Sandbox) -> None:
    intact = members()
    for given in (
        intact,
        {"mp4": intact["mp4"]},
        {"png": intact["png"], "other": b""},
        {},
        {"mp4": encode_clip()},
        intact,
    ):
        assert_equal(real.decode(given), decode_sample(given, SPECS, Limits()))


def test_same_rejections_as_in_this_process(real: Sandbox) -> None:
    intact = members()
    for suffix, data in (
        ("mp4", intact["mp4"][: len(intact["mp4"]) // 2]),
        ("mp4", b"noise" * 99),
        ("npy", encode_npy(np.zeros(3))),
        ("png", b""),
        ("png", intact["png"][:500]),
    ):
        with pytest.raises(SampleError) as here:
            decode_sample({suffix: data}, SPECS, Limits())
        with pytest.raises(SampleError) as there:
            real.decode({suffix: data})
        assert (there.value.reason, there.value.detail) == (here.value.reason, here.value.detail)


def test_probe_reports_what_headers_say(real: Sandbox) -> None:
    facts = real.probe(encode_clip(sound=tone(440, 1.0)), "mp4")
    assert facts["video"] == [48]
    assert facts["audio"] == [SAMPLE_RATE, pytest.approx(1.0, abs=0.1)]
    assert real.probe(encode_clip(), "mp4").keys() == {"video"}
    with pytest.raises(SampleError, match="undecodable"):
        real.probe(b"noise" * 99, "mp4")


@pytest.mark.parametrize(
    ("how", "reason", "detail"),
    [
        ("segfault", "crash", r"\bSIGSEGV\b"),
        ("abort", "crash", r"\bSIGABRT\b"),
        ("exit_with_3", "crash", r"\b3\b"),
        ("hang_in_c", "timeout", r"\b0\.5\b"),
        ("hang_in_c_without_the_gil", "timeout", r"\b0\.5\b"),
        ("hang_in_python", "timeout", r"\b0\.5\b"),
        ("sleep", "timeout", r"\b0\.5\b"),
        ("eat_memory", "oversize", r"\b134217728\b"),
        ("one_huge_array", "oversize", r"\b134217728\b"),
        ("one_huge_tensor", "oversize", r"\b134217728\b"),
        ("memory_called_undecodable", "oversize", r"\b134217728\b"),
        ("reject", "non_finite", r"\Aünïcode \ud800 detail\Z"),
    ],
)
def test_misbehaving_decoder_rejects_only_its_sample(
    hostile: Sandbox, hasty: Sandbox, how: str, reason: str, detail: str
) -> None:
    assert is_healthy(hostile)
    with pytest.raises(SampleError) as error:
        (hasty if reason == "timeout" else hostile).decode({"x": how.encode()})
    assert error.value.reason == reason and re.search(detail, error.value.detail)
    assert is_healthy(hasty if reason == "timeout" else hostile)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("wrong_code", r"\bno_such_attribute\b"),
        (
            "wrong_shape",
            r"(?s)(?=.*\bnumbers\b)(?=.*\buint8\b)(?=.*\(1,\))(?=.*\bfloat32\b)(?=.*\(3, 2\))",
        ),
        ("killed", r"\bSIGKILL\b"),
        ("terminated", r"\bSIGTERM\b"),
    ],
)
def test_failure_not_caused_by_a_sample_is_fatal(hostile: Sandbox, how: str, message: str) -> None:
    with pytest.raises(RemixError, match=message):
        hostile.decode({"x": how.encode()})
    assert is_healthy(hostile)


@pytest.mark.parametrize(("which", "message"), [("child", r"\bSIGKILL\b"), ("zygote", r"-9\b")])
def test_process_killed_between_samples_is_fatal_once(
    hostile: Sandbox, tmp_path: Path, which: str, message: str
) -> None:
    zygote, child = processes_of(hostile, tmp_path / "pids")
    killed = {"child": child, "zygote": zygote}[which]
    killed.kill()
    wait_until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(RemixError, match=message):
        hostile.decode({"x": b"ok"})
    assert is_healthy(hostile)


@pytest.mark.parametrize("before", ["break_the_heap", "leak"])
def test_sample_is_not_rejected_for_damage_by_an_earlier_one(hostile: Sandbox, before: str) -> None:
    after = {"break_the_heap": b"needs_a_whole_heap", "leak": b"leak"}[before]
    for _ in range(8):
        hostile.decode({"x": before.encode()})
        hostile.decode({"x": after})


def test_prints_of_the_decoder_go_to_standard_error(
    hostile: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SampleError):
        hostile.decode({"x": b"segfault"})  # the next child takes the standard error of this moment
    assert (hostile.decode({"x": b"print_in_c"})["numbers"] == 10).all()
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "printed by C\nprinted by Python\n"


def test_large_members_and_many_arrays_pass_the_pipes() -> None:
    specs = {
        f"m{i}": TensorSpec(kind="tensor", member="npy", shape=(2**10,)) for i in range(3000)
    } | {
        "large": TensorSpec(kind="tensor", member="npy", shape=(2**23,)),
        "point": TensorSpec(kind="tensor", member="npy", shape=()),
    }
    with Sandbox(specs, Limits(), entry=HOSTILE) as sandbox:
        found = sandbox.decode(
            {
                "x": b"ok",
                "npy": bytes(100 * 2**20 + 3),
                "empty": b"",
                **{f"s{i}": b"abc" for i in range(2000)},
            }
        )
    assert list(found) == list(specs)
    assert all(
        array is not None and array.shape == specs[name].shape and (array == (5 + 6000) % 256).all()
        for name, array in found.items()
    )


def test_members_beyond_the_memory_limit_are_oversize(hostile: Sandbox) -> None:
    with pytest.raises(SampleError, match=r"(?=.*\boversize\b)(?=.*\b134217728\b)"):
        hostile.decode({"x": b"ok", "npy": bytes(150 * 2**20)})
    assert is_healthy(hostile)


def test_threads_may_share_a_sandbox(hostile: Sandbox) -> None:
    wrong: list[int] = []

    def work(extra: int) -> None:
        for _ in range(50):
            array = hostile.decode({"x": b"ok", "npy": bytes(extra)})["numbers"]
            if array is None or not (array == 2 + extra).all():
                wrong.append(extra)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_many_crashes_leave_no_process_and_no_open_file(tmp_path: Path) -> None:
    before = psutil.Process().num_fds()
    with Sandbox(SMALL, LIMITS, entry=HOSTILE) as sandbox:
        zygote, _ = processes_of(sandbox, tmp_path / "pids")
        open_files = psutil.Process().num_fds(), zygote.num_fds()
        for _ in range(8):  # each of them kills two children
            with pytest.raises(SampleError, match="crash"):
                sandbox.decode({"x": b"segfault"})
        assert is_healthy(sandbox)
        assert (psutil.Process().num_fds(), zygote.num_fds()) == open_files
        [child] = zygote.children()
        assert child.num_fds() == 4  # three standard ones, and the connection
    assert not zygote.is_running()
    assert not child.is_running()
    assert psutil.Process().num_fds() == before


PARENT = """
import sys
from pipeline.decode.config import TensorSpec
from pipeline.shards.limits import Limits
from pipeline.decode.sandbox.sandbox import Sandbox
specs = {"x": TensorSpec(kind="tensor", member="npy", shape=(1,))}
sandbox = Sandbox(specs, Limits(), entry="tests.support.hostile_decoders:mixed")
sandbox.decode({"x": b"ok"})
sandbox.decode({"x": b"write_pids_and_hang", "path": sys.argv[1].encode()})
"""


def test_killed_parent_leaves_no_process_even_if_the_child_hangs(tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(pid_file)], cwd=Path(__file__).parents[3]
    )
    wait_until(lambda: pid_file.exists() and len(pid_file.read_text(encoding="utf-8").split()) == 2)
    processes = read_processes(pid_file)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(
        lambda: (
            not any(
                process.is_running() and process.status() != psutil.STATUS_ZOMBIE
                for process in processes
            )
        )
    )


def test_exiting_parent_leaves_no_process_without_close() -> None:
    code = (
        PARENT.rsplit("\n", 2)[0]
        + "\nimport psutil\nprint([p.pid for p in psutil.Process().children(recursive=True)])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    pids = json.loads(ended.stdout)
    assert len(pids) == 2
    wait_until(
        lambda: (
            not any(
                psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
                for pid in pids
            )
        )
    )


def test_failed_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = psutil.Process().num_fds()
    with (
        Sandbox(SMALL, LIMITS, entry="tests.no_such_module:decode") as sandbox,
        pytest.raises(RemixError, match=r"tests\.no_such_module"),
    ):
        sandbox.decode({})
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with Sandbox(SMALL, LIMITS) as sandbox, pytest.raises(RemixError, match="/no/such/python"):
        sandbox.decode({})
    assert psutil.Process().num_fds() == before


def test_process_keeps_one_sandbox() -> None:
    before = set(psutil.Process().children())
    first = sandbox_for(SMALL, LIMITS)
    assert first.decode({"npy": encode_npy(np.ones((3, 2)))})["numbers"].sum() == 6
    assert sandbox_for(dict(SMALL), Limits(timeout=60, memory=2**27)) is first
    [zygote] = set(psutil.Process().children()) - before
    second = sandbox_for(SMALL, Limits())
    assert second is not first
    assert not zygote.is_running()
    second.close()


def processes_of(sandbox: Sandbox, file: Path) -> list[psutil.Process]:
    sandbox.decode({"x": b"write_pids", "path": str(file).encode()})
    return read_processes(file)


def read_processes(file: Path) -> list[psutil.Process]:
    """The zygote and the decode worker."""
    return [psutil.Process(int(pid)) for pid in file.read_text(encoding="utf-8").split()]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
