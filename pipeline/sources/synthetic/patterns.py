"""Synthetic patterns: one function per modality that draws a noisy sample of a class.

The pattern of a class depends only on its number, so all generated datasets have the same classes.
Samples of a class differ in position, speed, rotation, size and colours of the video; in tempo,
phase, pitch and loudness of the audio; and in number and order of words of the text. `noise` is the
mixing weight of the noise: 0 is a clean sample, 1 is only noise.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from pipeline.arrays import Array, Float32Array, StrArray, UInt8Array

SIZE = 96
FPS = 10
NUM_FRAMES = 10
SAMPLE_RATE = 16_000
SEMITONE = 2 ** (1 / 12)
CONSONANTS, VOWELS = list("bdfgklmnprstvzñß"), list("aeiouäéøữ")


def _class_rng(purpose: int, label: int) -> Generator:
    return np.random.default_rng([purpose, label])


def video(label: int, noise: float, rng: Generator, num_frames: int = NUM_FRAMES) -> UInt8Array:
    """Return frames (T, SIZE, SIZE, 3) of a textured shape that moves over a cloudy background."""
    x, y = _shape_coordinates(rng, num_frames)
    shape, texture = _shape_and_texture(label, x, y)
    dark, light, background = (
        rng.uniform(low, high, 3).astype(np.float32)
        for low, high in ((0.0, 0.35), (0.65, 1.0), (0.3, 0.7))
    )
    surface = light + texture[..., None] * (dark - light)
    clean = background + shape[..., None] * (surface - background)
    clouds = _clouds(rng, num_frames)
    mixed = (1 - noise) * (clean - 0.5) + 0.75 * noise * clouds
    pixels: UInt8Array = np.clip(255 * (0.5 + mixed), 0, 255).astype(np.uint8)
    return pixels


def _shape_coordinates(rng: Generator, num_frames: int) -> tuple[Array, Array]:
    """x and y of each pixel, (T, SIZE, SIZE), in a frame of reference that moves with the shape.

    The unit of length is the mean radius of the shape.
    """
    start, speed = rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.3, 0.3, 2)
    turn, spin, radius = rng.uniform(-0.25, 0.25), rng.uniform(-0.3, 0.3), rng.uniform(0.5, 0.7)
    time = np.linspace(-0.5, 0.5, num_frames)[:, None, None]
    axis = np.linspace(-1, 1, SIZE)
    x = (axis[None, None, :] - start[0] - speed[0] * time) / radius
    y = (axis[None, :, None] - start[1] - speed[1] * time) / radius
    cosine, sine = np.cos(turn + spin * time), np.sin(turn + spin * time)
    return (cosine * x + sine * y).astype(np.float32), (cosine * y - sine * x).astype(np.float32)


def _shape_and_texture(label: int, x: Array, y: Array) -> tuple[Array, Array]:
    """Mask and texture of a class in [0, 1], at coordinates relative to the shape."""
    rng = _class_rng(1, label)
    waves = np.arange(2, 6)
    heights = rng.dirichlet(np.full(len(waves), 0.4)) * 0.45
    phases = rng.uniform(0, 2 * np.pi, len(waves))
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    ripples = zip(waves.tolist(), heights.tolist(), phases.tolist(), strict=True)
    outline = 1 + sum(height * np.cos(wave * angle + phase) for wave, height, phase in ripples)
    direction, stripes, rings = rng.uniform(0, np.pi), rng.uniform(0.7, 2.2), rng.uniform(0.0, 1.5)
    along = math.cos(direction) * x + math.sin(direction) * y
    texture = 0.5 + 0.5 * np.sin(2 * np.pi * (stripes * along + rings * distance))
    return np.clip((outline - distance) * 8, 0, 1), texture


def _clouds(rng: Generator, num_frames: int) -> Array:
    """Noise (T, SIZE, SIZE, 3) of blocks of 12 and 4 pixels: a constant part and one per frame."""
    clouds: Array = np.zeros((num_frames, SIZE, SIZE, 3), np.float32)
    for side in (12, 4):
        shape = (SIZE // side, SIZE // side, 3)
        blotches = rng.normal(0, 0.25, shape) + rng.normal(0, 0.25, (num_frames, *shape))
        blotches = blotches.astype(np.float32)
        clouds += blotches.repeat(side, axis=1).repeat(side, axis=2)
    return clouds


def audio(label: int, noise: float, rng: Generator) -> Float32Array:
    """Return one second (SAMPLE_RATE,) of a melody with hiss and random tones as noise."""
    onsets, pitches = _tune(label)
    shift, tempo = rng.uniform(0, 1), rng.uniform(0.93, 1.07)
    detune = SEMITONE ** rng.uniform(-1, 1)
    starts = (onsets * tempo + shift) % 1.0
    clean = sum(
        (_tone(start, pitch * detune, rng) for start, pitch in zip(starts, pitches, strict=True)),
        np.zeros(SAMPLE_RATE),
    )
    strays = sum(
        (_tone(rng.uniform(), 220 * SEMITONE ** rng.uniform(0, 36), rng) for _ in range(6)),
        np.zeros(SAMPLE_RATE),
    )
    hiss = rng.normal(0, 1, SAMPLE_RATE)
    mixed = (1 - noise) ** 1.5 * clean + noise**1.5 * (0.35 * strays + 0.25 * hiss)
    loud: Float32Array = (10 ** rng.uniform(-0.4, 0.0) * 0.5 * mixed / np.abs(mixed).max()).astype(
        np.float32
    )
    return loud


def _tune(label: int) -> tuple[Array, Array]:
    """Onsets in seconds, multiples of 1/8, and pitches in Hz of a class's five tones."""
    rng = _class_rng(2, label)
    onsets = np.sort(rng.permutation(8)[:5]) / 8
    return onsets, 220 * SEMITONE ** rng.integers(0, 36, 5)


def _tone(start: float, pitch: float, rng: Generator) -> Array:
    """A decaying tone (SAMPLE_RATE,) with one overtone, wrapped around at the end of the second."""
    time = (np.arange(SAMPLE_RATE) / SAMPLE_RATE - start) % 1.0
    phase = 2 * np.pi * pitch * time
    tone: Array = (
        (np.sin(phase) + 0.4 * np.sin(2 * phase)) * np.exp(-time / 0.12) * rng.uniform(0.7, 1.0)
    )
    return tone


def tensor(label: int, noise: float, rng: Generator) -> Float32Array:
    """Return six channels (6, 64) of oscillations with frequencies and phases of the class."""
    class_rng = _class_rng(3, label)
    frequencies = class_rng.uniform(1, 6, (6, 2))
    phases = class_rng.uniform(0, 2 * np.pi, (6, 2))
    amplitudes = class_rng.uniform(0.3, 1, (6, 2))
    time = np.linspace(0, 1, 64)[:, None, None] * rng.uniform(0.9, 1.1) + rng.uniform(-0.06, 0.06)
    signal = (amplitudes * np.sin(2 * np.pi * frequencies * time + phases)).sum(-1).T * rng.uniform(
        0.7, 1.3, (6, 1)
    )
    drift = rng.normal(0, 0.5, (6, 64)).cumsum(1)
    mixed: Float32Array = ((1 - noise) * signal + noise * drift).astype(np.float32)
    return mixed


def image(label: int, noise: float, rng: Generator) -> UInt8Array:
    """Return one frame (SIZE, SIZE, 3) of the class's video."""
    frame: UInt8Array = video(label, noise, rng, num_frames=1)[0]
    return frame


def text(label: int, noise: float, rng: Generator) -> StrArray:
    """Return 8 to 16 words: words of the class, mixed with random words of the same letters."""
    class_words = _words(6, _class_rng(4, label))
    num = int(rng.integers(8, 17))
    drawn, random_words = rng.choice(class_words, num), _words(num, rng)
    return np.where(rng.random(num) < noise, random_words, drawn)


def _words(num: int, rng: Generator) -> StrArray:
    """Random words (num,) of two or three syllables, each a consonant and a vowel.

    Letters take one to three bytes in UTF-8.
    """
    syllables = [
        "".join(pair)
        for pair in zip(rng.choice(CONSONANTS, 3 * num), rng.choice(VOWELS, 3 * num), strict=True)
    ]
    lengths = enumerate(rng.integers(2, 4, num))
    return np.array(["".join(syllables[3 * i : 3 * i + length]) for i, length in lengths])


PATTERNS: dict[str, Callable[[int, float, Generator], Array]] = {
    "video": video,
    "audio": audio,
    "image": image,
    "tensor": tensor,
    "text": text,
}
