"""69 valid, unusual or broken files: each decodes as its manifest implies, or is rejected for the
right reason."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.decode.config import AudioSpec, DecodeConfig, ImageSpec, VideoSpec
from pipeline.decode.job import decode
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.media.shapes import AnySpec
from pipeline.features.feature_set import FeatureSet
from pipeline.shards.discover import discover_shards
from pipeline.shards.limits import Limits
from pipeline.storage.arrow_files import read_table
from pipeline.storage.store_path import StorePath
from tests.support.media_files import facts, write_shard

NUM_FILES = 69
IMAGES, AUDIO = ("gif", "jpg", "png", "webp"), ("flac", "mp3", "opus", "wav")
REJECTED = {
    "broken/decord__corrupted.mp4": "undecodable",
    "broken/derived__bitflips_in_mdat.mp4": "undecodable",
    "broken/derived__moov_renamed_free.mp4": "bad_header",
    "broken/derived__no_moov.mp4": "bad_header",
    "broken/derived__random_bytes.mp4": "undecodable",
    "broken/derived__truncated_1k.mp4": "truncated",
    "broken/derived__truncated_half.mp4": "truncated",
    "broken/derived__wav_short_data.wav": "truncated",
    "broken/derived__zero_hole.mp4": "undecodable",
    "broken/filetype__fixture-corrupt.mkv": "bad_header",
    "broken/filetype__fixture-corrupt.png": "undecodable",
    "broken/filetype__fixture-json.webp": "undecodable",
    "broken/filetype__fixture-mp4v2.mp4": "truncated",
    "broken/filetype__fixture.ogv": "truncated",
    "broken/flac__01_-_wrong_max_blocksize.flac": "undecodable",
    "broken/flac__03_-_wrong_bit_depth.flac": "undecodable",
    "broken/flac__04_-_wrong_number_of_channels.flac": "bad_header",
    "broken/flac__06_-_missing_streaminfo_metadata_block.flac": "bad_header",
    "broken/flac__10_-_invalid_vorbis_comment_metadata_block.flac": "bad_header",
    "broken/lfs_pointer_1001_DFA_ANG_XX.flv": "lfs_pointer",
    "broken/lfs_pointer_1001_DFA_ANG_XX.mp3": "lfs_pointer",
    "broken/lfs_pointer_1001_DFA_ANG_XX.wav": "lfs_pointer",
    "broken/minimp3__l3-compl-cut.mp3": "undecodable",
    "broken/pillow__broken_data_stream.png": "undecodable",
    "broken/pillow__decompression_bomb.gif": "oversize",
    "broken/pillow__truncated_image.png": "truncated",
    "broken/pillow__truncated_jpeg.jpg": "truncated",
    "broken/small__FlashVideo.flv": "truncated",
    "broken/small__Mpeg4.mp4": "no_such_stream",
    "broken/torchcodec__bad_huffman.jpg": "undecodable",
    "broken/torchcodec__sigsegv.png": "truncated",
    # a FLAC header cannot express that the number of channels changes
    "edge/flac__02_-_increasing_number_of_channels.flac": "bad_header",
    # no audio samples
    "edge/small__wav.wav": "empty",
}
"""Reasons of the files that are rejected; all others must decode."""
MISLABELLED = "broken/derived__wav_named_mp4.mp4"


def kinds_of(streams: str, suffix: str) -> set[str]:
    """Modality kinds of a file, from PyAV's list of streams ("video:h264 audio:aac").

    PyAV lists an image, and cover art in an audio file, as a video stream.
    """
    if suffix in IMAGES:
        return {"image"}
    kinds = {stream.partition(":")[0] for stream in streams.split()} & {"video", "audio"}
    return kinds & {"audio"} if suffix in AUDIO else kinds


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("ray_cluster")
def test_all_files_through_the_real_job(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    folder = real_data("torture")
    files = {f"{number:02d}": row for number, row in enumerate(rows(folder))}
    suffixes = {Path(row["file"]).suffix[1:] for row in files.values()}
    clips = tuple(sorted(suffixes - {*IMAGES, *AUDIO}))
    config = DecodeConfig(
        modalities={
            "audio": AudioSpec(kind="audio", member=(*clips, *AUDIO)),
            "video": VideoSpec(kind="video", member=clips),
            "image": ImageSpec(kind="image", member=IMAGES),
        },
        max_rejected_share=1.0,
    )
    for number in range(3):
        samples = {
            key: {
                "json": facts(row["kind"], sample_id=row["file"]),
                Path(row["file"]).suffix[1:]: (folder / row["file"]).read_bytes(),
            }
            for key, row in files.items()
            if int(key) % 3 == number
        }
        write_shard(tmp_path / "in" / f"torture-{number}.tar", samples)
    summary = decode(
        discover_shards([str(tmp_path / "in")]), StorePath.at(tmp_path / "out"), config
    )
    features = FeatureSet.open(StorePath.at(tmp_path / "out"))
    rejected = {
        row["sample_id"]: row["reason"]
        for row in read_table(StorePath.at(tmp_path / "out" / "rejected.arrow")).to_pylist()
    }
    assert rejected == REJECTED
    kinds = {row["file"]: row["kind"] for row in files.values()}
    assert {name for name, kind in kinds.items() if kind == "broken"} == {
        MISLABELLED,
        *(name for name in REJECTED if kinds[name] != "edge"),
    }
    assert summary.mislabelled == {"mp4": {"wav": 1}}
    assert not {name for name in REJECTED if kinds[name] == "valid"}
    assert summary.num_rows + summary.num_rejected == NUM_FILES
    present = dict(
        zip(features.samples["sample_id"].to_pylist(), features.has.tolist(), strict=True)
    )
    for row in files.values():
        if row["file"] not in REJECTED:
            kinds = kinds_of(row["pyav_streams"], Path(row["file"]).suffix[1:])
            assert present[row["file"]] == [name in kinds for name in features.modalities], row[
                "file"
            ]


def array_of(folder: Path, name: str, spec: AnySpec) -> np.ndarray:
    (suffix,) = spec.member
    array = decode_sample({suffix: (folder / name).read_bytes()}, {"m": spec}, Limits())["m"]
    assert array is not None
    return array.astype(np.float32)


def test_unusual_files_are_decoded_correctly(real_data: Callable[[str], Path]) -> None:
    """Compare with another reader, or with the rule that generated the file."""
    from PIL import Image

    folder = real_data("torture")
    with Image.open(folder / "edge/torchcodec__grayscale_16bit.png") as file:
        grey = np.asarray(file)[:, 8:56].astype(np.float64) / 257
    image = array_of(
        folder,
        "edge/torchcodec__grayscale_16bit.png",
        ImageSpec(kind="image", member="png", size=48, channels=1),
    )
    np.testing.assert_allclose(image[0], grey, atol=1)
    with Image.open(folder / "edge/pillow__hopper_orientation_6.jpg") as file:
        upright = np.rot90(np.asarray(file), -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(
        array_of(
            folder,
            "edge/pillow__hopper_orientation_6.jpg",
            ImageSpec(kind="image", member="jpg", size=128),
        ),
        upright,
    )
    for name, suffix in (
        ("edge/torchcodec__sine_16ch_s16.wav", "wav"),
        ("valid/torchcodec__sine_mono_s24.wav", "wav"),
    ):
        spectrum = array_of(
            folder,
            name,
            AudioSpec(kind="audio", member=suffix, seconds=1.0, features="log_spectrogram"),
        )[0].mean(1)
        assert spectrum.max() - np.median(spectrum) > 3, name


def test_data_after_the_last_declared_audio_sample_is_ignored(
    real_data: Callable[[str], Path],
) -> None:
    """An MP3 with a byte after its last frame; a FLAC whose last frame FFmpeg partly repeats."""
    folder = real_data("torture")
    mp3, spec = (
        (folder / "edge/minimp3__MEANDR90.mp3").read_bytes(),
        {"a": AudioSpec(kind="audio", member="mp3")},
    )
    np.testing.assert_array_equal(
        decode_sample({"mp3": mp3}, spec, Limits())["a"],
        decode_sample({"mp3": mp3[:-1]}, spec, Limits())["a"],
    )
    spectrum = array_of(
        folder, "edge/ravdess__flac_junk_after_end.flac", AudioSpec(kind="audio", member="flac")
    )[0]
    silent = (spectrum == spectrum.min()).all(0)
    hop, window, num = 160, 512, 29_760
    assert not silent[: num // hop].any()
    assert silent[(num + window // 2) // hop + 1 :].all()
