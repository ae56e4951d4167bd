"""Decoding of damaged, mislabelled and oversized media: a SampleError with the right reason."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.decode.config import ImageSpec, TensorSpec
from pipeline.decode.media.sample import decode_sample
from pipeline.decode.media.shapes import AnySpec
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits
from tests.support.decoding import (
    LFS,
    audio,
    decode,
    grey,
    levels,
    reason,
    silent_wav,
    sound,
    video,
)
from tests.support.media_files import (
    encode_clip,
    encode_film,
    encode_image,
    encode_npy,
    encode_wav,
    tone,
)


def test_missing_stream() -> None:
    silent = encode_clip(4)
    assert decode_sample({"mp4": silent}, {"a": audio("mp4"), "v": video()}, Limits())["a"] is None
    assert reason({"mp4": silent}, a=audio("mp4")) == "no_such_stream"
    assert decode_sample({}, {"a": audio("mp4"), "v": video()}, Limits()) == {"a": None, "v": None}


def test_first_present_member_is_used() -> None:
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
def test_members_that_are_not_media(spec: AnySpec, data: bytes, expected: str) -> None:
    assert reason({"mp4": data}, m=spec) == expected


def test_a_cut_clip_whose_index_comes_first_is_rejected(tmp_path: Path) -> None:
    first = encode_clip(16, sound=tone(800, 1.6), index_first=tmp_path / "clip.mp4")
    for cut in (len(first) - 1500, len(first) - 1):
        assert reason({"mp4": first[:cut]}, v=video(), a=audio("mp4")) == "truncated"


CUTTABLE = {
    "mp4": lambda: encode_clip(16, sound=tone(800, 1.6)),
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
def test_truncation_of_containers_with_a_length_is_detected(suffix: str) -> None:
    """Even if all the audio that is needed comes before the cut."""
    data = CUTTABLE[suffix]()
    spec = (
        video(2, 16, suffix)
        if suffix in ("mp4", "mkv", "webm", "avi", "flv")
        else audio(suffix, seconds=0.1)
    )
    decode(data, spec)
    for cut in (len(data) // 3, len(data) // 2, len(data) * 4 // 5):
        assert reason({suffix: data[:cut]}, m=spec) == "truncated", cut


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flac", "mp3", "opus", "m4a", "aac", "ts"])
def test_zeros_in_the_middle_are_detected(suffix: str) -> None:
    data = CUTTABLE[suffix]()
    middle, spec = len(data) // 2, {"a": audio(suffix, seconds=1.2)}
    assert reason({suffix: data[:middle] + bytes(700) + data[middle + 700 :]}, **spec) in (
        "undecodable",
        "bad_header",
        "truncated",
    )


def test_bytes_after_the_end_of_audio_are_ignored() -> None:
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
    ("suffix", "actual", "data"),
    [
        ("mp4", "wav", encode_wav(tone(800, 0.5))),
        ("wav", "mp4", encode_clip(4, sound=tone(800, 0.5))),
        ("cam.webm", "avi", encode_clip(4, container="avi", codec="mpeg4")),
        ("mp3", "flac", sound("flac", "flac")),
        ("wav", "opus", sound("ogg", "libopus")),
        ("h264", "ts", encode_clip(4, container="mpegts")),
    ],
)
def test_container_with_wrong_suffix_is_decoded_by_content(
    suffix: str, actual: str, data: bytes
) -> None:
    one, other = (
        decode_sample({name: data}, {"v": video(member=name), "a": audio(name)}, Limits())
        for name in (suffix, actual)
    )
    assert any(array is not None for array in one.values())
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("suffix", ["mp4", "wav"])
def test_bytes_without_a_signature_need_the_right_suffix(suffix: str) -> None:
    """FFmpeg takes them for raw video, as it would take noise that looks like it."""
    data = encode_clip(4, container="h264")
    decode(data, video(member="h264"))
    assert reason({suffix: data}, v=video(member=suffix)) == "wrong_type"


def test_unknown_suffix_accepts_any_container() -> None:
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
def test_inconsistent_headers(case: str) -> None:
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
    suffix, make, limits, pattern = OVERSIZE[case]
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
    assert re.search(pattern, caught.value.detail)
    assert f"{next(iter(limits.values())):.10g}" in caught.value.detail


def test_jpeg_with_invalid_codes() -> None:
    jpeg = bytearray(
        encode_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "JPEG")
    )
    middle = len(jpeg) // 2
    jpeg[middle : middle + 200] = b"\xfe" * 200
    assert np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).shape == (64, 64, 3)
    assert reason({"jpg": bytes(jpeg)}, i=ImageSpec(kind="image", member="jpg")) == "undecodable"


def npy_header(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


FLOATS = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x93NUMPY\x01", "undecodable"),
        (npy_header(FLOATS)[:30], "truncated"),
        (npy_header(FLOATS), "truncated"),
        (npy_header(FLOATS.replace(b"2", b"99999999999")), "oversize"),
        (npy_header(FLOATS.replace(b"2", b"-2"), bytes(8)), "wrong_type"),
        (npy_header(FLOATS.replace(b"<f4", b"<q9")), "bad_header"),
        (npy_header(FLOATS.replace(b"'<f4'", b"[('a', 1, 2, 3)]")), "bad_header"),
        (npy_header(b"(" * 9000), "bad_header"),
    ],
)
def test_arrays_with_wrong_headers(data: bytes, expected: str) -> None:
    assert reason({"npy": data}, t=TensorSpec(kind="tensor", member="npy", shape=(2,))) == expected


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    pickled = f"cposix\nsystem\n(Vtouch {tmp_path / 'harm'}\ntR.".encode()
    data = npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", pickled)
    assert (
        reason({"npy": data}, t=TensorSpec(kind="tensor", member="npy", shape=(1,))) == "wrong_type"
    )
    assert not (tmp_path / "harm").exists()


def test_bugs_are_not_reported_as_damaged_files() -> None:
    """Only errors that malformed bytes can cause reject a sample; an invalid spec is a bug."""
    with pytest.raises(AttributeError):
        decode_sample({"mp4": encode_clip(4)}, {"v": object()}, Limits())
    with pytest.raises((AttributeError, TypeError)):
        decode_sample(
            {"png": encode_image(np.zeros((4, 4, 3), np.uint8))},
            {"i": ImageSpec(kind="image", member="png")},
            None,
        )


def test_playlist_does_not_open_files(tmp_path: Path) -> None:
    clip = tmp_path / "secret.ts"
    clip.write_bytes(encode_clip(16, container="mpegts"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    assert reason({"mp4": playlist.encode()}, v=video()) == "undecodable"
    concat = f"ffconcat version 1.0\nfile {clip}\n"
    assert reason({"mp4": concat.encode()}, v=video()) == "undecodable"


def test_audio_that_is_not_finite() -> None:
    wave = tone(500, 1.0)
    wave[100] = np.nan
    assert reason({"wav": encode_wav(wave)}, a=audio(seconds=1.0)) == "non_finite"
