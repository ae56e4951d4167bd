"""69 files that are whole, odd or broken: each is decoded to what its manifest implies, or rejected for the right reason."""

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
IMAGES, SOUNDS = ("gif", "jpg", "png", "webp"), ("flac", "mp3", "opus", "wav")
REJECTED = {
    "broken/decord__corrupted.mp4": "undecodable",
    "broken/derived__bitflips_in_mdat.mp4": "undecodable",
    "broken/derived__moov_renamed_free.mp4": "bad_header",
    "broken/derived__no_moov.mp4": "bad_header",
    "broken/derived__random_bytes.mp4": "undecodable",
    "broken/derived__truncated_1k.mp4": "truncated",
    "broken/derived__truncated_half.mp4": "truncated",
    "broken/derived__wav_named_mp4.mp4": "wrong_type",
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
    # The header has no way to say that the channels change.
    "edge/flac__02_-_increasing_number_of_channels.flac": "bad_header",
    # No sample of sound is no sound.
    "edge/small__wav.wav": "empty",
}
"""Files that do not decode; all others must."""


def kinds_of(streams: str, suffix: str) -> set[str]:
    """What PyAV's list of streams ("video:h264 audio:aac") promises; pictures are files of one video stream, and cover art is no film."""
    if suffix in IMAGES:
        return {"image"}
    kinds = {stream.partition(":")[0] for stream in streams.split()} & {"video", "audio"}
    return kinds & {"audio"} if suffix in SOUNDS else kinds


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("ray_cluster")
def test_all_files_through_the_real_job(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    folder = real_data("torture")
    files = {f"{number:02d}": row for number, row in enumerate(rows(folder))}
    suffixes = {Path(row["file"]).suffix[1:] for row in files.values()}
    clips = tuple(sorted(suffixes - {*IMAGES, *SOUNDS}))
    config = DecodeConfig(
        modalities={
            "audio": AudioSpec(kind="audio", member=(*clips, *SOUNDS)),
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
        name for name in REJECTED if kinds[name] != "edge"
    }
    assert not {name for name in REJECTED if kinds[name] == "valid"}
    assert summary.num_rows + summary.num_rejected == NUM_FILES
    has = dict(zip(features.samples["sample_id"].to_pylist(), features.has.tolist(), strict=True))
    for row in files.values():
        if row["file"] not in REJECTED:
            kinds = kinds_of(row["pyav_streams"], Path(row["file"]).suffix[1:])
            assert has[row["file"]] == [name in kinds for name in features.modalities], row["file"]


def array_of(folder: Path, name: str, spec: AnySpec) -> np.ndarray:
    (suffix,) = spec.member
    array = decode_sample({suffix: (folder / name).read_bytes()}, {"m": spec}, Limits())["m"]
    assert array is not None
    return array.astype(np.float32)


def test_odd_files_have_their_content(real_data: Callable[[str], Path]) -> None:
    """Each against what another reader, or the picture's own rule, says it holds."""
    from PIL import Image

    folder = real_data("torture")
    with Image.open(folder / "edge/torchcodec__grayscale_16bit.png") as file:
        grey = np.asarray(file)[:, 8:56].astype(np.float64) / 257
    picture = array_of(
        folder,
        "edge/torchcodec__grayscale_16bit.png",
        ImageSpec(kind="image", member="png", size=48, channels=1),
    )
    np.testing.assert_allclose(picture[0], grey, atol=1)
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


def test_what_comes_behind_the_last_promised_sample_changes_nothing(
    real_data: Callable[[str], Path],
) -> None:
    """An MP3 with a byte behind its last frame; a FLAC of which FFmpeg cuts a piece of the last frame a second time."""
    folder = real_data("torture")
    mp3, sound = (
        (folder / "edge/minimp3__MEANDR90.mp3").read_bytes(),
        {"a": AudioSpec(kind="audio", member="mp3")},
    )
    np.testing.assert_array_equal(
        decode_sample({"mp3": mp3}, sound, Limits())["a"],
        decode_sample({"mp3": mp3[:-1]}, sound, Limits())["a"],
    )
    heard = array_of(
        folder, "edge/ravdess__flac_junk_after_end.flac", AudioSpec(kind="audio", member="flac")
    )[0]
    silent = (heard == heard.min()).all(0)
    hop, window, num = 160, 512, 29_760
    assert not silent[: num // hop].any()
    assert silent[(num + window // 2) // hop + 1 :].all()
