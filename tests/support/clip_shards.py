"""Shards of small generated clips, and the configuration that decodes them."""

from pathlib import Path

import numpy as np

from pipeline.decode.config import AudioSpec, DecodeConfig, TensorSpec, VideoSpec
from pipeline.shards.discover import discover_shards
from pipeline.storage.store_path import StorePath
from tests.support.media_files import encode_clip, encode_npy, facts, tone, write_shard

CONFIG = DecodeConfig(
    modalities={
        "video": VideoSpec(kind="video", member="mp4", frames=2, size=16),
        "audio": AudioSpec(kind="audio", member="mp4", seconds=0.5, num_mels=16),
        "tensor": TensorSpec(kind="tensor", member="npy", shape=(3,)),
    }
)
CLIPS = [encode_clip(4 + i, sound=tone(400 + 200 * i, 0.5)) for i in range(3)]


def media(number: int) -> dict[str, bytes]:
    return {
        "mp4": CLIPS[number % len(CLIPS)],
        "npy": encode_npy(np.array([number, 2 * number, 1.0])),
    }


def sample(number: int, **changes: object) -> dict[str, bytes]:
    split = ("train", "train", "validation", "test")[number % 4]
    return {
        "json": facts(number % 3, **{"split": split, "sample_id": f"id{number:03d}", **changes}),
        **media(number),
    }


def make_shards(folder: Path, num_shards: int = 3, num: int = 5) -> list[StorePath]:
    for i in range(num_shards):
        write_shard(
            folder / f"part-{i}.tar", {f"{n:04d}": sample(n) for n in range(i * num, (i + 1) * num)}
        )
    return discover_shards([str(folder)])


def add_shard(folder: Path, samples: dict[str, dict[str, bytes]]) -> list[StorePath]:
    make_shards(folder, 1)
    write_shard(folder / "x.tar", samples)
    return discover_shards([str(folder)])
