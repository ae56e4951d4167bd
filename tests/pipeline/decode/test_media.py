"""Media: bytes -> arrays of the promised shape and content, or one SampleError with the right reason."""

import io
import math
import re
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torchaudio
from PIL import Image

from pipeline.config import AudioSpec, ImageSpec, Limits, TensorSpec, VideoSpec
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.media.shapes import AnySpec, channel_axis, shape_of
from pipeline.errors import ConfigError, SampleError
from tests.support.media_files import (
    LEVEL,
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

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def decode(data: bytes, spec: AnySpec) -> np.ndarray:
    (suffix,) = spec.member
    array = decode_sample({suffix: data}, {"m": spec}, Limits())["m"]
    assert array is not None
    assert (array.shape, str(array.dtype)) == shape_of("m", spec)
    return array


def reason(members: dict[str, bytes], **specs: AnySpec) -> str:
    with pytest.raises(SampleError) as caught:
        decode_sample(members, specs, Limits())
    return caught.value.reason


def video(frames: int = 4, size: int = 32, member: str = "mp4") -> VideoSpec:
    return VideoSpec(kind="video", member=member, frames=frames, size=size)


def audio(member: str = "wav", **options: object) -> AudioSpec:
    return AudioSpec(kind="audio", member=member, **options)


def levels(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / LEVEL) for frame in frames]


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
    # The interval is 17 tenths long; its centres at 2.1, 6.4, 10.6 and 14.9 fall on the frames shown since 2, 6, 6 and 6.
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


def test_short_side_is_resized_and_the_centre_cut_out() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 200
    assert (
        decode(encode_image(pixels), ImageSpec(kind="image", member="png", size=20))[:, :, 2:-2]
        == 200
    ).all()
    assert levels(decode(encode_clip(4, size=(96, 32)), video(4, size=16))) == [0, 1, 2, 3]


@pytest.mark.parametrize("hertz", [500, 1000, 3000])
def test_a_tone_is_in_its_bin(hertz: int) -> None:
    spectrum = decode(encode_wav(tone(hertz, 1.0)), audio(seconds=1.0, features="log_spectrogram"))
    assert spectrum[0].astype(np.float32).mean(1).argmax() == hertz * 512 // SAMPLE_RATE


@pytest.mark.parametrize("features", ["log_mel", "log_spectrogram"])
def test_sound_equals_torchaudio_on_the_same_wave(features: str) -> None:
    heard = tone(700, 1.0)
    if features == "log_mel":
        transform = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=512, hop_length=160, n_mels=64
        )
    else:
        transform = torchaudio.transforms.Spectrogram(n_fft=512, hop_length=160, power=1.0)
    expected = torch.log(transform(torch.from_numpy(heard)) + 1e-7).to(torch.float16).numpy()
    np.testing.assert_array_equal(
        decode(encode_wav(heard), audio(seconds=1.0, features=features))[0], expected
    )


def test_sound_is_cut_padded_repeated_resampled_and_mixed_down() -> None:
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
    sound, film = audio("mp4", seconds=1.0), video()
    both = decode_sample(
        {"mp4": clip}, {"hear": sound, "see": film, "glance": video(2, 16)}, Limits()
    )
    np.testing.assert_array_equal(both["hear"], decode(clip, sound))
    np.testing.assert_array_equal(both["see"], decode(clip, film))
    np.testing.assert_array_equal(both["glance"], decode(clip, video(2, 16)))


def test_a_stream_that_is_missing() -> None:
    silent = encode_clip(4)
    assert decode_sample({"mp4": silent}, {"a": audio("mp4"), "v": video()}, Limits())["a"] is None
    assert reason({"mp4": silent}, a=audio("mp4")) == "no_such_stream"
    assert decode_sample({}, {"a": audio("mp4"), "v": video()}, Limits()) == {"a": None, "v": None}


def test_the_first_member_present_counts() -> None:
    spec = TensorSpec(kind="tensor", member=("a.npy", "npy"), shape=(2,))
    members = {"npy": encode_npy(np.array([1, 2])), "a.npy": encode_npy(np.array([3, 4]))}
    assert decode_sample(members, {"t": spec}, Limits())["t"].tolist() == [3, 4]
    assert decode_sample({"npy": members["npy"]}, {"t": spec}, Limits())["t"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "spec",
    [
        video(),
        audio("mp4"),
        ImageSpec(kind="image", member="mp4"),
        TensorSpec(kind="tensor", member="mp4", shape=(2,)),
    ],
)
@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "empty"), (LFS, "lfs_pointer"), (b"no media at all" * 9, "undecodable")],
)
def test_members_that_are_no_media(spec: AnySpec, data: bytes, expected: str) -> None:
    assert reason({"mp4": data}, m=spec) == expected


def test_cut_and_damaged_clips_are_rejected(tmp_path: Path) -> None:
    first = encode_clip(16, sound=tone(800, 1.6), index_first=tmp_path / "clip.mp4")
    for cut in (len(first) - 1500, len(first) - 1):
        assert reason({"mp4": first[:cut]}, v=video(), a=audio("mp4")) == "truncated"
    mp4 = encode_clip(16, sound=tone(800, 1.6))
    for cut in (100, len(mp4) // 2, len(mp4) - 1500):
        assert reason({"mp4": mp4[:cut]}, v=video(), a=audio("mp4")) == "truncated"
    holed = mp4[:200] + b"\xff" * (len(mp4) // 2) + mp4[200 + len(mp4) // 2 :]
    assert reason({"mp4": holed}, v=video(), a=audio("mp4")) in ("truncated", "undecodable")


def sound(
    container: str, codec: str, sample_rate: int = SAMPLE_RATE, channels: int = 2, **options: object
) -> bytes:
    return encode_sound(
        np.stack([tone(1000, 1.2, sample_rate)] * channels),
        container,
        codec,
        sample_rate,
        **options,
    )


def bin_of(data: bytes, suffix: str) -> int:
    """Where a second of the sound is loudest, in bins of 31.25 Hz."""
    return int(
        decode(data, audio(suffix, seconds=1.0, features="log_spectrogram"))[0]
        .astype(np.float32)
        .mean(1)
        .argmax()
    )


def grey(num: int = 4, width: int = 64, height: int = 48) -> list[np.ndarray]:
    return [np.full((height, width, 3), LEVEL * i, np.uint8) for i in range(num)]


CUTTABLE = {
    "mkv": lambda: encode_clip(16, sound=tone(800, 1.6), container="matroska"),
    "webm": lambda: encode_film(grey(), container="webm", codec="libvpx-vp9"),
    "avi": lambda: encode_clip(16, container="avi", codec="mpeg4"),
    "flv": lambda: encode_clip(16, sound=tone(800, 1.6), container="flv"),
    "wav": lambda: encode_wav(tone(800, 1.6)),
    "flac": lambda: sound("flac", "flac"),
    "opus": lambda: sound("ogg", "libopus"),
    "mp3": lambda: sound("mp3", "libmp3lame"),
    "m4a": lambda: sound("mp4", "aac"),
    "aac": lambda: sound("adts", "aac"),
    "aiff": lambda: sound("aiff", "pcm_s16be"),
    "ts": lambda: sound("mpegts", "mp2"),
}


@pytest.mark.parametrize("suffix", CUTTABLE)
def test_a_container_that_says_its_length_cannot_be_cut_unseen(suffix: str) -> None:
    """Whatever is asked of the file: also where all the sound that is needed lies before the cut."""
    data = CUTTABLE[suffix]()
    spec = (
        video(2, 16, suffix)
        if suffix in ("mkv", "webm", "avi", "flv")
        else audio(suffix, seconds=0.1)
    )
    decode(data, spec)
    for cut in (len(data) // 3, len(data) // 2, len(data) * 4 // 5):
        assert reason({suffix: data[:cut]}, m=spec) == "truncated", cut


@pytest.mark.parametrize("suffix", ["mkv", "flac", "mp3", "opus", "m4a", "aac", "ts"])
def test_a_hole_in_the_middle_is_found(suffix: str) -> None:
    data = CUTTABLE[suffix]()
    middle, spec = len(data) // 2, {"a": audio(suffix, seconds=1.2)}
    assert reason({suffix: data[:middle] + bytes(700) + data[middle + 700 :]}, **spec) in (
        "undecodable",
        "bad_header",
        "truncated",
    )


def test_bytes_behind_the_end_of_a_sound_lose_nothing() -> None:
    flac, mp3 = sound("flac", "flac"), sound("mp3", "libmp3lame")
    last = flac[flac.rindex(b"\xff\xf8") :]
    for suffix, data, junk in (
        ("flac", flac, last[:200]),
        ("flac", flac, b"\xff" * 99),
        ("mp3", mp3, b"\xff"),
        ("wav", encode_wav(tone(800, 1.0)), b"junk" * 9),
    ):
        spec = audio(suffix, seconds=2.0)
        np.testing.assert_array_equal(decode(data + junk, spec), decode(data, spec))


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        ("mp4", encode_wav(tone(800, 0.5))),
        ("wav", encode_clip(4)),
        ("cam.webm", encode_clip(4, container="avi", codec="mpeg4")),
    ],
)
def test_a_container_under_the_name_of_another(suffix: str, data: bytes) -> None:
    assert reason({suffix: data}, v=video(member=suffix), a=audio(suffix)) == "wrong_type"


def test_a_suffix_that_names_no_container_takes_any() -> None:
    assert levels(decode(encode_clip(4, container="matroska"), video(4, member="film"))) == [
        0,
        1,
        2,
        3,
    ]


def flac_with(position: int, value: int) -> bytes:
    data = bytearray(sound("flac", "flac", channels=1))
    data[position] = value
    return bytes(data)


def silent_wav(num: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, num, "NONE", ""))
        out.writeframes(bytes(2 * num))
    return file.getvalue()


HEADERS = {
    "moov": (
        "mp4",
        lambda: encode_clip(4, sound=tone(800, 0.5)).replace(b"moov", b"free"),
        "bad_header",
    ),
    "box of 3 bytes": (
        "mp4",
        lambda: encode_clip(4, sound=tone(800, 0.5)) + b"\0\0\0\3junk",
        "bad_header",
    ),
    "moov without tracks": (
        "mp4",
        lambda: b"\0\0\0\x10ftypisom\0\0\2\0" + b"\0\0\0\x08moov",
        "no_such_stream",
    ),
    "EBML": (
        "mkv",
        lambda: encode_clip(4, container="matroska").replace(b"\x42\x86", b"\0\x86", 1),
        "bad_header",
    ),
    "STREAMINFO": ("flac", lambda: flac_with(4, 0x01), "bad_header"),
    "channels": (
        "flac",
        lambda: flac_with(4 + 4 + 12, 0x08 | flac_with(0, 0x66)[20]),
        "bad_header",
    ),
    "comments": ("flac", lambda: flac_with(4 + 4 + 34 + 4, 0xFF), "bad_header"),
    "data chunk": ("wav", lambda: encode_wav(tone(800, 0.5))[:2000], "truncated"),
    "no samples": ("wav", lambda: silent_wav(0), "empty"),
    "Ogg page": (
        "opus",
        lambda: sound("ogg", "libopus").replace(b"OggS", b"OgSS", 3),
        "undecodable",
    ),
    "FLV": ("flv", lambda: encode_clip(4, container="flv")[:12], "truncated"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_do_not_fit(case: str) -> None:
    suffix, make, expected = HEADERS[case]
    assert reason({suffix: make()}, v=video(member=suffix), a=audio(suffix)) == expected


OVERSIZE = {
    "seconds": ("mp4", lambda: encode_clip(16, sound=tone(800, 1.6)), {"seconds": 1.0}, r"\b1\.6"),
    "sound": ("wav", lambda: encode_wav(tone(800, 1.6)), {"seconds": 1.5}, r"\b1\.6"),
    "pixels": ("mp4", lambda: encode_clip(4), {"pixels": 64 * 48 - 1}, r"(?=.*\b64\b)(?=.*\b48\b)"),
    "fps": ("mp4", lambda: encode_clip(16), {"fps": 9.9}, r"\b10\b"),
    "frames": ("mp4", lambda: encode_clip(16), {"frames": 15}, r"\b16\b"),
    "frames that no header counts": (
        "h264",
        lambda: encode_clip(16, container="h264"),
        {"frames": 15},
        r"\b16\b",
    ),
    "channels": ("wav", lambda: sound("wav", "pcm_s16le", channels=9), {"channels": 8}, r"\b9\b"),
    "picture": (
        "png",
        lambda: encode_image(np.zeros((20, 30, 3), np.uint8)),
        {"pixels": 599},
        r"(?=.*\b30\b)(?=.*\b20\b)",
    ),
    "array": ("npy", lambda: encode_npy(np.zeros(100)), {"member_bytes": 799}, r"\b800\b"),
}


@pytest.mark.parametrize("case", OVERSIZE)
def test_limits(case: str) -> None:
    suffix, make, limits, told = OVERSIZE[case]
    specs: dict[str, AnySpec]
    if suffix == "png":
        specs = {"i": ImageSpec(kind="image", member="png")}
    elif suffix == "npy":
        specs = {"t": TensorSpec(kind="tensor", member="npy", shape=(100,))}
    else:
        specs = {"v": video(member=suffix), "a": audio(suffix)}
    decode_sample({suffix: make()}, specs, Limits())
    with pytest.raises(SampleError) as caught:
        decode_sample({suffix: make()}, specs, Limits(**limits))
    assert caught.value.reason == "oversize"
    assert re.search(told, caught.value.detail)
    assert f"{next(iter(limits.values())):.10g}" in caught.value.detail


@pytest.mark.parametrize(
    ("degrees", "bright"), [(90, [0, 1, 0, 1]), (180, [0, 0, 1, 1]), (270, [1, 0, 1, 0])]
)
def test_a_turned_film_is_upright(degrees: int, bright: list[int]) -> None:
    """The upper half is bright before it is turned; the quarters are told row by row."""
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
    """The code values of the picture, without mapping of tones; the matrix is that which the stream names."""
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


def test_interlaced_film() -> None:
    clip = encode_film(
        grey(12), container="mpeg", codec="mpeg2video", options={"flags": "+ildct+ilme"}
    )
    assert levels(decode(clip, video(4, member="mpg"))) == [1, 4, 7, 10]


@pytest.mark.parametrize("channels", [1, 2, 6, 7, 8, 9, 16])
def test_any_number_of_channels(channels: int) -> None:
    spec, waves = (
        audio(seconds=1.0),
        np.stack([tone(1000, 1.2)] + [tone(3000, 1.2)] * (channels - 1)),
    )
    mixed = (waves * (2**15 - 1)).round().mean(0, dtype=np.float64) / 2**15
    heard = decode(encode_sound(waves, "wav", "pcm_s16le"), spec).astype(np.float32)
    np.testing.assert_allclose(
        heard, decode(encode_wav(mixed.astype(np.float32)), spec).astype(np.float32), atol=0.1
    )


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
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


def test_sound_that_starts_late() -> None:
    assert bin_of(sound("matroska", "libopus", 48_000, start=96_000), "mka") == 32


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [("mp3", "mp3", "libmp3lame"), ("m4a", "mp4", "aac"), ("flac", "flac", "flac")],
)
def test_cover_art_is_no_film(suffix: str, container: str, codec: str) -> None:
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


def test_moving_pictures_show_their_first() -> None:
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


def test_a_jpeg_with_wrong_codes() -> None:
    jpeg = bytearray(
        encode_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "JPEG")
    )
    middle = len(jpeg) // 2
    jpeg[middle : middle + 200] = b"\xfe" * 200
    assert np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).shape == (64, 64, 3)
    assert reason({"jpg": bytes(jpeg)}, i=ImageSpec(kind="image", member="jpg")) == "undecodable"


def npy_header(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x93NUMPY\x01", "undecodable"),
        (npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}")[:30], "truncated"),
        (npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"), "truncated"),
        (
            npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"),
            "oversize",
        ),
        (
            npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", bytes(8)),
            "wrong_type",
        ),
        (
            npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", bytes(16)),
            "wrong_type",
        ),
        (npy_header(b"{'descr': '<q9', 'fortran_order': False, 'shape': (2,)}"), "bad_header"),
        (npy_header(b"(" * 9000), "bad_header"),
        (
            npy_header(b"{'descr': [('a', 1, 2, 3)], 'fortran_order': False, 'shape': (2,)}"),
            "bad_header",
        ),
    ],
)
def test_arrays_with_lying_headers(data: bytes, expected: str) -> None:
    assert reason({"npy": data}, t=TensorSpec(kind="tensor", member="npy", shape=(2,))) == expected


def test_errors_of_the_program_are_not_the_files() -> None:
    """Only what hostile bytes can raise rejects a sample: a specification of another kind is a mistake of ours."""
    with pytest.raises(AttributeError):
        decode_sample({"mp4": encode_clip(4)}, {"v": object()}, Limits())
    with pytest.raises((AttributeError, TypeError)):
        decode_sample(
            {"png": encode_image(np.zeros((4, 4, 3), np.uint8))},
            {"i": ImageSpec(kind="image", member="png")},
            None,
        )


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    clip = tmp_path / "secret.ts"
    clip.write_bytes(encode_clip(16, container="mpegts"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    assert reason({"mp4": playlist.encode()}, v=video()) == "undecodable"
    concat = f"ffconcat version 1.0\nfile {clip}\n"
    assert reason({"mp4": concat.encode()}, v=video()) == "undecodable"


def test_sound_that_is_not_finite() -> None:
    heard = tone(500, 1.0)
    heard[100] = np.nan
    assert reason({"wav": encode_wav(heard)}, a=audio(seconds=1.0)) == "non_finite"


def test_pictures() -> None:
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


def test_sound_shorter_than_half_a_window_is_a_config_error() -> None:
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
