"""Throughput of `remix decode` on avwords relative to a plain loop of PyAV and torchaudio.

Needs REMIX_TEST_DATA. Both sides use the same number of processes and alternate. `ratio` compares
clips/s of decoding after the preflight, on a warmed-up Ray, with those of the loop, which decodes
and transforms but writes nothing. Ray runs its workers at niceness 15, the loop runs at 0: on a
busy machine this favours the loop. With REMIX_BEFORE, the path of another checkout, the time of a
complete job is also compared with that checkout, in alternating processes (goal: at most 1.05).
"""

import csv
import io
import logging
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

import av
import numpy as np
import ray
import torch
import webdataset
from _report import report
from torchaudio.transforms import MelSpectrogram

from pipeline.decode.config import AudioSpec, DecodeConfig, VideoSpec
from pipeline.decode.job import decode
from pipeline.decode.summary import Progress
from pipeline.shards.discover import discover_shards
from pipeline.storage.store_path import StorePath

PROCESSES = 2
ROUNDS = int(os.environ.get("REMIX_BENCH_ROUNDS", "3"))
NUM_SHARDS = 16
FRAMES, SIZE, RATE, SECONDS, MELS = 8, 112, 16_000, 2.0, 64
CONFIG = DecodeConfig(
    modalities={
        "audio": AudioSpec(
            kind="audio", member="mp4", sample_rate=RATE, seconds=SECONDS, num_mels=MELS
        ),
        "video": VideoSpec(kind="video", member="mp4", frames=FRAMES, size=SIZE),
    }
)


def unpack(folder: Path) -> list[Path]:
    """Unpack avwords, pack it into shards, and return the paths of the clips."""
    source = Path(os.environ["REMIX_TEST_DATA"]) / "avwords"
    with tarfile.open(source / "data.tar.gz") as tar:
        tar.extractall(folder / "data", filter="data")
    with open(source / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (folder / "shards").mkdir()
    with webdataset.ShardWriter(
        str(folder / "shards" / "all-%06d.tar"), maxcount=-(-len(rows) // NUM_SHARDS), verbose=0
    ) as writer:
        for row in rows:
            metadata = {"sample_id": row["sample_id"], "label": row["word"], "split": row["split"]}
            writer.write(
                {
                    "__key__": row["sample_id"],
                    "json": metadata,
                    "mp4": (folder / "data" / row["video_path"]).read_bytes(),
                }
            )
    return [folder / "data" / row["video_path"] for row in rows]


def start_bare() -> None:
    """Initialise a process of the plain loop."""
    global mel
    torch.set_num_threads(1)
    mel = MelSpectrogram(RATE, n_fft=512, hop_length=160, n_mels=MELS)


def bare(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Decode a clip without Remix: all frames, eight of them scaled, and a log-mel spectrogram."""
    frames, blocks = [], []
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
    with av.open(io.BytesIO(path.read_bytes())) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        video.codec_context.thread_count = audio.codec_context.thread_count = 1
        for packet in container.demux(video, audio):
            for frame in packet.decode():
                if packet.stream is video:
                    frames.append(frame)
                else:
                    blocks += [block.to_ndarray()[0] for block in resampler.resample(frame)]
    chosen = [frames[(2 * i + 1) * len(frames) // (2 * FRAMES)] for i in range(FRAMES)]
    pixels = np.stack(
        [frame.reformat(SIZE, SIZE, "rgb24").to_ndarray().transpose(2, 0, 1) for frame in chosen]
    )
    wave = np.zeros(round(RATE * SECONDS), np.float32)
    decoded = np.concatenate(blocks)[: len(wave)]
    wave[: len(decoded)] = decoded
    spectrogram = torch.log(mel(torch.from_numpy(wave)) + 1e-7).to(torch.float16).numpy()[None]
    return pixels.shape, spectrogram.shape


def remix(shards: list[StorePath], out: Path) -> tuple[float, float]:
    """Seconds of a complete decode job, and of the part after the preflight."""
    checked = start = time.perf_counter()

    def watch(progress: Progress) -> None:
        nonlocal checked
        if not progress.num_done:
            checked = time.perf_counter()

    summary = decode(shards, StorePath.at(out), CONFIG, progress=watch)
    assert summary.num_rejected == 0, summary
    end = time.perf_counter()
    return end - start, end - checked


MODALITIES = CONFIG.model_dump(mode="json", include={"modalities"})
JOB = f"""
import logging, sys, tempfile, time
import ray
from pathlib import Path
from pipeline.decode.config import DecodeConfig
from pipeline.decode.job import decode
from pipeline.storage.store_path import StorePath
from pipeline.shards.discover import discover_shards
level = logging.ERROR
ray.init(num_cpus={PROCESSES}, include_dashboard=False, log_to_driver=False, logging_level=level)
shards, config = discover_shards([sys.argv[1]]), DecodeConfig.model_validate({MODALITIES!r})
with tempfile.TemporaryDirectory() as out:
    decode(shards, StorePath.at(Path(out) / "warm"), config)
    start = time.perf_counter()
    decode(shards, StorePath.at(Path(out) / "timed"), config)
    print(time.perf_counter() - start)
"""
"""Times a decode job in its own process, after one that starts the workers."""


def against(before: str, shards: Path) -> dict[str, object]:
    """Compare this checkout with another one, in alternating processes."""
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    for _ in range(ROUNDS):
        for name, root in (
            ("now", Path(__file__).resolve().parent.parent),
            ("before", Path(before)),
        ):
            environment = {**os.environ, "PYTHONPATH": str(root)}
            ended = subprocess.run(
                [sys.executable, "-c", JOB, shards],
                cwd=root,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds[name].append(float(ended.stdout.splitlines()[-1]))
    ratios = [now / then for now, then in zip(seconds["now"], seconds["before"], strict=True)]
    return {
        "ratio": round(median(ratios), 4),
        "goal": 1.05,
        **{name: [round(x, 2) for x in values] for name, values in seconds.items()},
    }


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        multiprocessing.get_context("spawn").Pool(PROCESSES, start_bare) as pool,
    ):
        folder = Path(name)
        clips = unpack(folder)
        shards = discover_shards([str(folder / "shards")])
        ray.init(
            num_cpus=PROCESSES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        remix(shards, folder / "warm")
        assert pool.map(bare, clips[:64])[0] == ((FRAMES, 3, SIZE, SIZE), (1, MELS, 201))
        complete, steady, loop = [], [], []
        for i in range(ROUNDS):
            for seconds, into in zip(
                remix(shards, folder / f"round-{i}"), (complete, steady), strict=True
            ):
                into.append(len(clips) / seconds)
            start = time.perf_counter()
            pool.map(bare, clips, chunksize=8)
            loop.append(len(clips) / (time.perf_counter() - start))
        before = os.environ.get("REMIX_BEFORE")
        ray.shutdown()
        earlier = {"before": against(before, folder / "shards")} if before else {}
    report(
        "decode",
        median(steady) / median(loop),
        above={"what": "remix decode, steady, clips/s", "rounds": [round(x, 1) for x in steady]},
        below={
            "what": "plain loop of PyAV and torchaudio, clips/s",
            "rounds": [round(x, 1) for x in loop],
        },
        whole_job={
            "what": "with the preflight, clips/s",
            "rounds": [round(x, 1) for x in complete],
            "ratio": round(median(complete) / median(loop), 4),
        },
        goal=0.85,
        clips=len(clips),
        processes=PROCESSES,
        shards=len(shards),
        **earlier,
    )


if __name__ == "__main__":
    main()
