"""Media: bytes -> arrays of the promised shape and content, or one SampleError with the right reason."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from PIL import Image

from pipeline.config import AudioSpec, ImageSpec, TensorSpec, VideoSpec
from pipeline.errors import ConfigError, SampleError
from pipeline.media import AnySpec, channel_axis, decode_sample, shape_of
from tests.media_files import LEVEL, SAMPLE_RATE, encode_clip, encode_image, encode_npy, encode_wav, tone

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def decode(data: bytes, spec: AnySpec) -> np.ndarray:
    (suffix,) = spec.member
    array = decode_sample({suffix: data}, {"m": spec})["m"]
    assert array is not None
    assert (array.shape, str(array.dtype)) == shape_of("m", spec)
    return array


def reason(members: dict[str, bytes], **specs: AnySpec) -> str:
    with pytest.raises(SampleError) as caught:
        decode_sample(members, specs)
    return caught.value.reason


def video(frames: int = 4, size: int = 32) -> VideoSpec:
    return VideoSpec(kind="video", member="mp4", frames=frames, size=size)


def audio(member: str = "wav", **options: object) -> AudioSpec:
    return AudioSpec(kind="audio", member=member, **options)


def levels(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / LEVEL) for frame in frames]


@pytest.mark.parametrize(
    ("num", "frames", "expected"), [(16, 4, [2, 6, 10, 14]), (16, 1, [8]), (16, 16, list(range(16))), (2, 6, [0, 0, 0, 1, 1, 1]), (1, 3, [0, 0, 0])]
)
def test_frames_at_the_centres_of_equal_segments(num: int, frames: int, expected: list[int]) -> None:
    assert levels(decode(encode_clip(num), video(frames))) == expected


def test_frames_are_chosen_by_presentation_time() -> None:
    times = [0, 1, 2, 3, 4, 5, 6, 16]
    # The interval is 17 tenths long; its centres at 2.1, 6.4, 10.6 and 14.9 fall on the frames shown since 2, 6, 6 and 6.
    assert levels(decode(encode_clip(8, times=times), video(4))) == [2, 6, 6, 6]
    shifted = [time + 30 for time in times]
    assert levels(decode(encode_clip(8, times=shifted, container="matroska"), video(4))) == [2, 6, 6, 6]


def test_frames_without_presentation_times() -> None:
    assert levels(decode(encode_clip(12, container="avi", codec="mpeg4"), video(4))) == [1, 4, 7, 10]
    assert levels(decode(encode_clip(12, container="h264"), video(4))) == [1, 4, 7, 10]


def test_short_side_is_resized_and_the_centre_cut_out() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 200
    assert (decode(encode_image(pixels), ImageSpec(kind="image", member="png", size=20))[:, :, 2:-2] == 200).all()
    assert levels(decode(encode_clip(4, size=(96, 32)), video(4, size=16))) == [0, 1, 2, 3]


@pytest.mark.parametrize("hertz", [500, 1000, 3000])
def test_a_tone_is_in_its_bin(hertz: int) -> None:
    spectrum = decode(encode_wav(tone(hertz, 1.0)), audio(seconds=1.0, features="log_spectrogram"))
    assert spectrum[0].astype(np.float32).mean(1).argmax() == hertz * 512 // SAMPLE_RATE


@pytest.mark.parametrize("features", ["log_mel", "log_spectrogram"])
def test_sound_equals_torchaudio_on_the_same_wave(features: str) -> None:
    wave = tone(700, 1.0)
    if features == "log_mel":
        transform = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=512, hop_length=160, n_mels=64)
    else:
        transform = torchaudio.transforms.Spectrogram(n_fft=512, hop_length=160, power=1.0)
    expected = torch.log(transform(torch.from_numpy(wave)) + 1e-7).to(torch.float16).numpy()
    np.testing.assert_array_equal(decode(encode_wav(wave), audio(seconds=1.0, features=features))[0], expected)


def test_sound_is_cut_padded_repeated_resampled_and_mixed_down() -> None:
    short, long = tone(1000, 0.5), tone(1000, 2.0)
    one = decode(encode_wav(long[:SAMPLE_RATE]), audio(seconds=1.0))
    np.testing.assert_array_equal(decode(encode_wav(long), audio(seconds=1.0)), one)
    silent = decode(encode_wav(short), audio(seconds=1.0))[0, :, 60:]
    assert np.all(silent == np.float16(math.log(1e-7)))
    np.testing.assert_array_equal(decode(encode_wav(short), audio(seconds=1.0, pad="repeat")), decode(encode_wav(np.tile(short, 2)), audio(seconds=1.0)))
    stereo = np.stack([long, np.zeros_like(long)], 1)
    np.testing.assert_array_equal(decode(encode_wav(stereo), audio(seconds=1.0)), decode(encode_wav(long / 2), audio(seconds=1.0)))
    fast = decode(encode_wav(tone(1000, 1.0, 44_100), 44_100), audio(seconds=1.0)).astype(np.float32)
    assert fast[0].mean(1).argmax() == one[0].astype(np.float32).mean(1).argmax()


def test_two_modalities_of_one_container_equal_each_alone() -> None:
    clip = encode_clip(16, sound=tone(800, 1.6))
    sound, film = audio("mp4", seconds=1.0), video()
    both = decode_sample({"mp4": clip}, {"hear": sound, "see": film, "glance": video(2, 16)})
    np.testing.assert_array_equal(both["hear"], decode(clip, sound))
    np.testing.assert_array_equal(both["see"], decode(clip, film))
    np.testing.assert_array_equal(both["glance"], decode(clip, video(2, 16)))


def test_a_stream_that_is_missing() -> None:
    silent = encode_clip(4)
    assert decode_sample({"mp4": silent}, {"a": audio("mp4"), "v": video()})["a"] is None
    assert reason({"mp4": silent}, a=audio("mp4")) == "no_such_stream"
    assert decode_sample({}, {"a": audio("mp4"), "v": video()}) == {"a": None, "v": None}


def test_the_first_member_present_counts() -> None:
    spec = TensorSpec(kind="tensor", member=("a.npy", "npy"), shape=(2,))
    members = {"npy": encode_npy(np.array([1, 2])), "a.npy": encode_npy(np.array([3, 4]))}
    assert decode_sample(members, {"t": spec})["t"].tolist() == [3, 4]
    assert decode_sample({"npy": members["npy"]}, {"t": spec})["t"].tolist() == [1, 2]


@pytest.mark.parametrize("spec", [video(), audio("mp4"), ImageSpec(kind="image", member="mp4"), TensorSpec(kind="tensor", member="mp4", shape=(2,))])
@pytest.mark.parametrize(("data", "expected"), [(b"", "empty"), (LFS, "lfs_pointer"), (b"no media at all" * 9, "undecodable")])
def test_members_that_are_no_media(spec: AnySpec, data: bytes, expected: str) -> None:
    assert reason({"mp4": data}, m=spec) == expected


def test_cut_and_damaged_clips_are_rejected(tmp_path: Path) -> None:
    clip = encode_clip(16, sound=tone(800, 1.6), container="matroska")
    whole = decode(clip, video())
    for cut in (len(clip) // 4, len(clip) // 2):
        try:
            assert levels(decode(clip[:cut], video())) != levels(whole)
        except SampleError as error:
            assert error.reason in ("truncated", "undecodable")
    first = encode_clip(16, sound=tone(800, 1.6), index_first=tmp_path / "clip.mp4")
    for cut in (len(first) - 1500, len(first) - 1):
        assert reason({"mp4": first[:cut]}, v=video(), a=audio("mp4")) == "truncated"
    mp4 = encode_clip(16, sound=tone(800, 1.6))
    for cut in (100, len(mp4) // 2, len(mp4) - 1500):
        assert reason({"mp4": mp4[:cut]}, v=video(), a=audio("mp4")) in ("truncated", "undecodable")
    holed = mp4[:200] + b"\xff" * (len(mp4) // 2) + mp4[200 + len(mp4) // 2 :]
    assert reason({"mp4": holed}, v=video(), a=audio("mp4")) in ("truncated", "undecodable")


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    clip = tmp_path / "secret.ts"
    clip.write_bytes(encode_clip(16, container="mpegts"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    assert reason({"mp4": playlist.encode()}, v=video()) == "undecodable"
    concat = f"ffconcat version 1.0\nfile {clip}\n"
    assert reason({"mp4": concat.encode()}, v=video()) == "undecodable"


def test_sound_that_is_not_finite() -> None:
    wave = tone(500, 1.0)
    wave[100] = np.nan
    assert reason({"wav": encode_wav(wave)}, a=audio(seconds=1.0)) == "non_finite"


def test_pictures() -> None:
    pixels = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    for channels in (1, 3):
        spec = ImageSpec(kind="image", member="png", size=16, channels=channels)
        np.testing.assert_array_equal(decode(encode_image(pixels, exif=exif), spec), np.rot90(decode(encode_image(pixels), spec), 2, (1, 2)))
    spec = ImageSpec(kind="image", member="png")
    jpeg = encode_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "JPEG")
    assert reason({"png": jpeg[: len(jpeg) // 2]}, i=spec) == "truncated"
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert reason({"png": bomb.getvalue()}, i=spec) in ("oversize", "undecodable")


def test_arrays() -> None:
    spec = TensorSpec(kind="tensor", member="npy", shape=(2, 3))
    values = np.arange(6).reshape(2, 3)
    for kind in (np.int16, np.float64, np.uint8):
        np.testing.assert_array_equal(decode(encode_npy(values.astype(kind)), spec), values)
    np.testing.assert_array_equal(decode(encode_npy(np.asfortranarray(values)), spec), values)
    assert reason({"npy": encode_npy(values.T)}, t=spec) == "wrong_type"
    assert reason({"npy": encode_npy(values.astype(complex))}, t=spec) == "wrong_type"
    assert reason({"npy": encode_npy(np.array([[1, 2, 3], [4, None, 6]], object))}, t=spec) == "wrong_type"
    assert reason({"npy": encode_npy(values)[:-3]}, t=spec) == "truncated"
    assert reason({"npy": encode_npy(np.full((2, 3), 1e300))}, t=spec) == "non_finite"


def test_sound_shorter_than_half_a_window_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="n_fft"):
        shape_of("a", audio(seconds=0.01))
    assert shape_of("a", AudioSpec(kind="audio", member="mp4", sample_rate=22_050, seconds=3, features="log_spectrogram", hop=353)) == (
        (1, 257, 188),
        "float16",
    )


@pytest.mark.parametrize(("shape", "axis"), [((8, 3, 4, 4), 1), ((3, 4, 4), 0), ((5, 7), 0), ((9,), 0)])
def test_channel_axis(shape: tuple[int, ...], axis: int) -> None:
    assert channel_axis(shape) == axis
