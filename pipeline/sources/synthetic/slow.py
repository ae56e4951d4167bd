"""The profile `slow`: the audio is learned at once and then overfitted, the video is learned late.

Joint training fails on it. The audio explains its labels within two epochs, as far as they can be
explained: 40% of the clips have the audio of a class drawn at random. The network then memorizes
those by their stray tones. The video, whose signal is small compared with what varies in it, needs
several epochs of training of its own, but is wrong in only 8% of the clips.
"""

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from pipeline.arrays import Array, Float32Array, UInt8Array
from pipeline.decode.config import AudioSpec, VideoSpec
from pipeline.sources.shard_writer import JsonValue
from pipeline.sources.synthetic import encoding
from pipeline.sources.synthetic.profile import Members, Metadata, Outline, Profile

SIZE, FPS, NUM_FRAMES = 48, 8, 8
SAMPLE_RATE = 16_000
CRF = 18  # at the coarser quantization of the other profiles, H.264 would remove the stripes
RANDOM_AUDIO, RANDOM_VIDEO = 0.4, 0.08
"""Shares of the clips whose audio or video shows a class drawn uniformly from all classes."""
NUM_STRAYS, HISS = 8, 0.3
NUM_WAVES, NUM_STRIPES = 6, 8
STRIPES = (2.0, 8.0)
"""Range of the amplitude of the stripes in grey levels; that of the light is about 50."""


def _draw(outline: Outline) -> Iterator[tuple[Metadata, Members]]:
    names = outline.class_names
    for number, label in enumerate(outline.labels):
        audio_rng, video_rng = outline.rng(number, 0), outline.rng(number, 1)
        heard = _shown(label, len(names), RANDOM_AUDIO, audio_rng)
        seen = _shown(label, len(names), RANDOM_VIDEO, video_rng)
        amplitude = float(video_rng.uniform(*STRIPES))
        waveform = audio(heard, len(names), audio_rng)
        frames = video(seen, len(names), amplitude, video_rng)
        truth: dict[str, JsonValue] = {
            "audio": {"class": names[heard], "wrong": heard != label, "noise": HISS},
            "video": {"class": names[seen], "wrong": seen != label, "signal": amplitude},
        }
        clip = encoding.mp4(frames, FPS, waveform, SAMPLE_RATE, crf=CRF)
        yield {"truth": truth}, {"mp4": clip}


def _shown(label: int, num_classes: int, random_share: float, rng: Generator) -> int:
    """Class that a modality shows: the label, or one drawn at random, which may be the same."""
    other = int(rng.integers(num_classes))
    return other if rng.random() < random_share else label


def audio(label: int, num_classes: int, rng: Generator) -> Float32Array:
    """Return one second (SAMPLE_RATE,): two tones of the class, stray tones and hiss.

    The tones of the class are steady and as loud as the loudest stray, so that two bins of the
    spectrogram show it. The strays differ from clip to clip, so that each can be recognized by
    them. A class has two tones so that a stray can hide one.
    """
    shares = 0.15 + 0.7 * np.array([label + 0.5, (2 - label) % num_classes]) / num_classes
    strays = rng.uniform(0.08, 0.95, NUM_STRAYS)
    amplitudes = np.concatenate([np.ones(len(shares)), rng.uniform(0.3, 1, NUM_STRAYS)])
    phases = rng.uniform(0, 2 * np.pi, len(amplitudes))
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    pitches = _hertz(np.concatenate([shares, strays]))
    mixed = rng.normal(0, HISS, SAMPLE_RATE)
    for amplitude, pitch, phase in zip(amplitudes, pitches, phases, strict=True):
        mixed += amplitude * np.sin(2 * np.pi * pitch * time + phase)
    waveform: Float32Array = (0.5 * mixed / np.abs(mixed).max()).astype(np.float32)
    return waveform


def _hertz(shares: Array) -> Array:
    """Frequencies at shares of the mel scale from 0 to half the sample rate."""
    highest = np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz: Array = 700 * (10 ** (shares * highest) - 1)
    return hertz


def video(label: int, num_classes: int, amplitude: float, rng: Generator) -> UInt8Array:
    """Return frames (T, SIZE, SIZE, 3) of stripes under drifting coloured light.

    The angle of the stripes is the class. The light has most of the variance, but its waves are
    long: stripes as narrow as these can be separated from it by a convolution, which must be
    learned first.
    """
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    time = np.arange(NUM_FRAMES)[:, None, None] / FPS
    waves = rng.normal(0, 0.8, (NUM_WAVES, 2))  # cycles per frame in x and y
    drifts = rng.normal(0, 0.3, NUM_WAVES)  # cycles per second
    # mostly grey, as daylight is: the three channels share a part
    colours = 0.8 * rng.normal(size=(NUM_WAVES, 1)) + 0.6 * rng.normal(size=(NUM_WAVES, 3))
    phases = rng.uniform(0, 2 * np.pi, NUM_WAVES)
    pixels: Array = np.full((NUM_FRAMES, SIZE, SIZE, 3), 128.0)
    for (along_x, along_y), drift, colour, phase in zip(
        waves, drifts, colours, phases, strict=True
    ):
        wave = np.sin(2 * np.pi * (along_x * x + along_y * y + drift * time) + phase)
        pixels += wave[..., None] * colour * 50 / np.sqrt(3)
    angle = np.pi * label / num_classes
    across = NUM_STRIPES * (np.cos(angle) * x + np.sin(angle) * y)
    stripes = amplitude * np.sin(2 * np.pi * across + rng.uniform(0, 2 * np.pi))
    frames: UInt8Array = np.clip(np.rint(pixels + stripes[..., None]), 0, 255).astype(np.uint8)
    return frames


SLOW = Profile(
    draw=_draw,
    specs={
        # Windows without overlap, because the tones are steady: fewer numbers to learn from.
        "audio": AudioSpec(kind="audio", member=("mp4",), seconds=1.0, hop=512),
        # Two frames show the stripes under different light; more would only cost time.
        "video": VideoSpec(kind="video", member=("mp4",), frames=2, size=SIZE),
    },
    samples=2000,
    shares=(0.5, 0.12, 0.38),
)
