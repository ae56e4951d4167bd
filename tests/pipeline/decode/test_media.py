"""Decoding of valid media: shapes and content of the arrays."""

import io
import math

import av
import numpy as np
import pytest
import torch
import torchaudio
from PIL import Image

from pipeline.decode.config import AudioSpec, ImageSpec, TensorSpec
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.media.shapes import channel_axis, shape_of
from pipeline.errors import ConfigError
from pipeline.shards.limits import Limits
from tests.support.decoding import audio, bin_of, decode, grey, levels, reason, sound, video
from tests.support.media_files import (
    SAMPLE_RATE,
    encode_clip,
    encode_film,
    encode_image,
    encode_npy,
    encode_sound,
    encode_wav,
    tone,
    turn,
)


@pytest.mark.parametrize(
    ("num", "frames", "expected"),
    [
        (16, 4, [2, 6, 10, 14]),
        (16, 1, [8]),
        (16, 16, list(range(16))),
        (2, 6, [0, 0, 0, 1, 1, 1]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_frames_at_the_centres_of_equal_segments(
    num: int, frames: int, expected: list[int]
) -> None:
    assert levels(decode(encode_clip(num), video(frames))) == expected


def test_frames_are_chosen_by_presentation_time() -> None:
    times = [0, 1, 2, 3, 4, 5, 6, 16]
    # The interval is 1.7 s long; the frames displayed at 0.21, 0.64, 1.06 and 1.49 s are those of
    # 0.2, 0.6, 0.6 and 0.6 s.
    assert levels(decode(encode_clip(8, times=times), video(4))) == [2, 6, 6, 6]
    shifted = [time + 30 for time in times]
    assert levels(
        decode(encode_clip(8, times=shifted, container="matroska"), video(4, member="mkv"))
    ) == [2, 6, 6, 6]


def test_frames_without_presentation_times() -> None:
    assert levels(
        decode(encode_clip(12, container="avi", codec="mpeg4"), video(4, member="avi"))
    ) == [1, 4, 7, 10]
    assert levels(decode(encode_clip(12, container="h264"), video(4, member="h264"))) == [
        1,
        4,
        7,
        10,
    ]


def test_short_side_is_resized_and_centre_cropped() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 200
    assert (
        decode(encode_image(pixels), ImageSpec(kind="image", member="png", size=20))[:, :, 2:-2]
        == 200
    ).all()
    assert levels(decode(encode_clip(4, size=(96, 32)), video(4, size=16))) == [0, 1, 2, 3]


@pytest.mark.parametrize("features", ["log_mel", "log_spectrogram"])
def test_spectrogram_equals_torchaudio(features: str) -> None:
    wave = tone(700, 1.0)
    if features == "log_mel":
        transform = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=512, hop_length=160, n_mels=64
        )
    else:
        transform = torchaudio.transforms.Spectrogram(n_fft=512, hop_length=160, power=1.0)
    expected = torch.log(transform(torch.from_numpy(wave)) + 1e-7).to(torch.float16).numpy()
    np.testing.assert_array_equal(
        decode(encode_wav(wave), audio(seconds=1.0, features=features))[0], expected
    )


def test_audio_is_cut_padded_repeated_resampled_and_mixed_down() -> None:
    short, long = tone(1000, 0.5), tone(1000, 2.0)
    one = decode(encode_wav(long[:SAMPLE_RATE]), audio(seconds=1.0))
    np.testing.assert_array_equal(decode(encode_wav(long), audio(seconds=1.0)), one)
    silent = decode(encode_wav(short), audio(seconds=1.0))[0, :, 60:]
    assert np.all(silent == np.float16(math.log(1e-7)))
    np.testing.assert_array_equal(
        decode(encode_wav(short), audio(seconds=1.0, pad="repeat")),
        decode(encode_wav(np.tile(short, 2)), audio(seconds=1.0)),
    )
    stereo = np.stack([long, np.zeros_like(long)], 1)
    np.testing.assert_array_equal(
        decode(encode_wav(stereo), audio(seconds=1.0)),
        decode(encode_wav(long / 2), audio(seconds=1.0)),
    )
    fast = decode(encode_wav(tone(1000, 1.0, 44_100), 44_100), audio(seconds=1.0)).astype(
        np.float32
    )
    assert fast[0].mean(1).argmax() == one[0].astype(np.float32).mean(1).argmax()


def test_two_modalities_of_one_container_equal_each_alone() -> None:
    clip = encode_clip(16, sound=tone(800, 1.6))
    audio_spec, video_spec = audio("mp4", seconds=1.0), video()
    both = decode_sample(
        {"mp4": clip}, {"audio": audio_spec, "video": video_spec, "small": video(2, 16)}, Limits()
    )
    np.testing.assert_array_equal(both["audio"], decode(clip, audio_spec))
    np.testing.assert_array_equal(both["video"], decode(clip, video_spec))
    np.testing.assert_array_equal(both["small"], decode(clip, video(2, 16)))


@pytest.mark.parametrize(
    ("degrees", "bright"), [(90, [0, 1, 0, 1]), (180, [0, 0, 1, 1]), (270, [1, 0, 1, 0])]
)
def test_rotated_video_is_upright(degrees: int, bright: list[int]) -> None:
    """The upper half is bright before rotation; `bright` lists the quadrants row by row."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24] = 200
    frame = decode(turn(encode_film([pixels] * 4), degrees), video(1))[0].mean(0)
    quarters = [frame[y : y + 12, x : x + 12].mean() for y in (2, 18) for x in (2, 18)]
    np.testing.assert_allclose(quarters, 200 * np.array(bright), atol=4)


@pytest.mark.parametrize(
    ("width", "height"), [(63, 47), (47, 63), (1, 64), (64, 1), (3, 200), (1, 1)]
)
def test_odd_sizes(width: int, height: int) -> None:
    for suffix, container, codec in (("mkv", "matroska", "libvpx-vp9"), ("mp4", "mp4", "mpeg4")):
        assert levels(
            decode(
                encode_film(grey(4, width, height), container=container, codec=codec),
                video(4, member=suffix),
            )
        ) == [0, 1, 2, 3]
    assert (
        decode(
            encode_image(np.full((height, width, 3), 99, np.uint8)),
            ImageSpec(kind="image", member="png"),
        )
        == 99
    ).all()


@pytest.mark.parametrize(
    ("suffix", "container", "codec", "form"),
    [("webm", "webm", "libvpx-vp9", "yuva420p"), ("mov", "mov", "prores_ks", "yuva444p10le")],
)
def test_alpha_is_left_out(suffix: str, container: str, codec: str, form: str) -> None:
    frames = [
        np.dstack([pixels, np.full((48, 64), 255 * (i % 2), np.uint8)])
        for i, pixels in enumerate(grey())
    ]
    assert levels(
        decode(
            encode_film(frames, container=container, codec=codec, pix_fmt=form),
            video(4, member=suffix),
        )
    ) == [0, 1, 2, 3]
    assert (
        decode(
            encode_image(np.dstack([np.full((9, 9, 3), 50, np.uint8), np.zeros((9, 9), np.uint8)])),
            ImageSpec(kind="image", member="png"),
        )
        == 50
    ).all()


def test_ten_bits_in_bt2020() -> None:
    """Colours are converted with the matrix that the stream specifies, without tone mapping."""
    colour = np.full((48, 64, 3), (200, 60, 30), np.uint8)
    options = {"x265-params": "log-level=none:crf=4"}
    clip = encode_film(
        [colour] * 4,
        container="matroska",
        codec="libx265",
        pix_fmt="yuv420p10le",
        colours=(9, 16, 9),
        options=options,
    )
    np.testing.assert_allclose(
        decode(clip, video(1, member="mkv"))[0].mean((1, 2)), (200, 60, 30), atol=3
    )


def test_interlaced_video() -> None:
    clip = encode_film(
        grey(12), container="mpeg", codec="mpeg2video", options={"flags": "+ildct+ilme"}
    )
    assert levels(decode(clip, video(4, member="mpg"))) == [1, 4, 7, 10]


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 16])
def test_any_number_of_channels(channels: int) -> None:
    spec, waves = (
        audio(seconds=1.0),
        np.stack([tone(1000, 1.2)] + [tone(3000, 1.2)] * (channels - 1)),
    )
    mixed = (waves * (2**15 - 1)).round().mean(0, dtype=np.float64) / 2**15
    wave = decode(encode_sound(waves, "wav", "pcm_s16le"), spec).astype(np.float32)
    np.testing.assert_allclose(
        wave, decode(encode_wav(mixed.astype(np.float32)), spec).astype(np.float32), atol=0.1
    )


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 192_000])
def test_any_sample_rate(sample_rate: int) -> None:
    assert bin_of(sound("wav", "pcm_s16le", sample_rate), "wav") == 32


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [
        ("mp3", "mp3", "libmp3lame"),
        ("opus", "ogg", "libopus"),
        ("aac", "adts", "aac"),
        ("aiff", "aiff", "pcm_s16be"),
        ("mka", "matroska", "libopus"),
        ("flac", "flac", "flac"),
        ("ts", "mpegts", "mp2"),
        ("m4a", "ipod", "alac"),
    ],
)
def test_a_tone_through_each_codec(suffix: str, container: str, codec: str) -> None:
    assert bin_of(sound(container, codec, 48_000), suffix) == 32


def test_audio_that_starts_late() -> None:
    assert bin_of(sound("matroska", "libopus", 48_000, start=96_000), "mka") == 32


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [("mp3", "mp3", "libmp3lame"), ("m4a", "mp4", "aac"), ("flac", "flac", "flac")],
)
def test_cover_art_is_not_video(suffix: str, container: str, codec: str) -> None:
    song = sound(
        container, codec, 44_100, cover=encode_image(np.full((32, 32, 3), 99, np.uint8), "JPEG")
    )
    with av.open(io.BytesIO(song)) as file:
        assert {stream.type for stream in file.streams} == {"audio", "video"}
    assert bin_of(song, suffix) == 32
    assert (
        decode_sample({suffix: song}, {"a": audio(suffix), "v": video(member=suffix)}, Limits())[
            "v"
        ]
        is None
    )
    assert reason({suffix: song}, v=video(member=suffix)) == "no_such_stream"


def test_first_frame_of_animations_is_used() -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (40, 200, 120)]
    for kind in ("GIF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(
            file,
            kind,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if kind == "WEBP" else {}),
        )
        assert (
            decode(file.getvalue(), ImageSpec(kind="image", member="png", size=16)) == 40
        ).all(), kind


def test_grey_of_16_bits_is_scaled() -> None:
    ramp = np.linspace(0, 2**16 - 1, 32 * 32).astype(np.uint16).reshape(32, 32)
    spec = ImageSpec(kind="image", member="png", size=32, channels=1)
    np.testing.assert_allclose(decode(encode_image(ramp), spec)[0], ramp / 257, atol=1)
    for floating in (np.zeros((8, 8), np.float32), np.full((8, 8), -3, np.int32)):
        assert reason({"png": encode_image(floating, "TIFF")}, i=spec) == "wrong_type"


def test_images() -> None:
    pixels = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    for channels in (1, 3):
        spec = ImageSpec(kind="image", member="png", size=16, channels=channels)
        np.testing.assert_array_equal(
            decode(encode_image(pixels, exif=exif), spec),
            np.rot90(decode(encode_image(pixels), spec), 2, (1, 2)),
        )
    spec = ImageSpec(kind="image", member="png")
    jpeg = encode_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "JPEG")
    assert reason({"png": jpeg[: len(jpeg) // 2]}, i=spec) == "truncated"
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert reason({"png": bomb.getvalue()}, i=spec) == "oversize"


def test_arrays() -> None:
    spec = TensorSpec(kind="tensor", member="npy", shape=(2, 3))
    values = np.arange(6).reshape(2, 3)
    for kind in (np.int16, np.float64, np.uint8):
        np.testing.assert_array_equal(decode(encode_npy(values.astype(kind)), spec), values)
    np.testing.assert_array_equal(decode(encode_npy(np.asfortranarray(values)), spec), values)
    assert reason({"npy": encode_npy(values.T)}, t=spec) == "wrong_type"
    assert reason({"npy": encode_npy(values.astype(complex))}, t=spec) == "wrong_type"
    assert (
        reason({"npy": encode_npy(np.array([[1, 2, 3], [4, None, 6]], object))}, t=spec)
        == "wrong_type"
    )
    assert reason({"npy": encode_npy(values)[:-3]}, t=spec) == "truncated"
    assert reason({"npy": encode_npy(np.full((2, 3), 1e300))}, t=spec) == "non_finite"


def test_audio_shorter_than_half_a_window_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="n_fft"):
        shape_of("a", audio(seconds=0.01))
    assert shape_of(
        "a",
        AudioSpec(
            kind="audio",
            member="mp4",
            sample_rate=22_050,
            seconds=3,
            features="log_spectrogram",
            hop=353,
        ),
    ) == (
        (1, 257, 188),
        "float16",
    )


@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 3, 4, 4), 1), ((3, 4, 4), 0), ((5, 7), 0), ((9,), 0)]
)
def test_channel_axis(shape: tuple[int, ...], axis: int) -> None:
    assert channel_axis(shape) == axis
