"""What a class looks, sounds and reads like, and one noisy sample of it.

A class is drawn from its number alone, so that every generated set has the same classes; a sample varies place, speed, turn,
size and colours, or tempo, phase, pitch and loudness, or number and order of words, and is mixed with as much noise as asked: 0 none, 1 nothing else.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from pipeline.arrays import Array

SIZE = 96
FPS = 10
NUM_FRAMES = 10
SAMPLE_RATE = 16_000
SEMITONE = 2 ** (1 / 12)
CONSONANTS, VOWELS = list("bdfgklmnprstvzñß"), list("aeiouäéøữ")


def _class_rng(purpose: int, label: int) -> Generator:
    return np.random.default_rng([purpose, label])


def picture(
    label: int, noise: float, rng: Generator, num_frames: int = NUM_FRAMES
) -> npt.NDArray[np.uint8]:
    """(T, SIZE, SIZE, 3): a shape with its texture, moving over a cloudy ground."""
    x, y = _seen_from_shape(rng, num_frames)
    shape, texture = _shape_and_texture(label, x, y)
    ink, paper, ground = (
        rng.uniform(low, high, 3).astype(np.float32)
        for low, high in ((0.0, 0.35), (0.65, 1.0), (0.3, 0.7))
    )
    skin = paper + texture[..., None] * (ink - paper)
    clean = ground + shape[..., None] * (skin - ground)
    clouds = _clouds(rng, num_frames)
    mixed = (1 - noise) * (clean - 0.5) + 0.75 * noise * clouds
    pixels: npt.NDArray[np.uint8] = np.clip(255 * (0.5 + mixed), 0, 255).astype(np.uint8)
    return pixels


def _seen_from_shape(rng: Generator, num_frames: int) -> tuple[Array, Array]:
    """Every pixel's place (T, SIZE, SIZE) in the shape's own coordinates, whose unit is the shape's mean radius."""
    start, speed = rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.3, 0.3, 2)
    turn, spin, radius = rng.uniform(-0.25, 0.25), rng.uniform(-0.3, 0.3), rng.uniform(0.5, 0.7)
    time = np.linspace(-0.5, 0.5, num_frames)[:, None, None]
    axis = np.linspace(-1, 1, SIZE)
    x = (axis[None, None, :] - start[0] - speed[0] * time) / radius
    y = (axis[None, :, None] - start[1] - speed[1] * time) / radius
    cosine, sine = np.cos(turn + spin * time), np.sin(turn + spin * time)
    return (cosine * x + sine * y).astype(np.float32), (cosine * y - sine * x).astype(np.float32)


def _shape_and_texture(label: int, x: Array, y: Array) -> tuple[Array, Array]:
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
    """(T, SIZE, SIZE, 3): blotches of 12 and of 4 pixels, half of which stay while the frames pass."""
    clouds: Array = np.zeros((num_frames, SIZE, SIZE, 3), np.float32)
    for side in (12, 4):
        shape = (SIZE // side, SIZE // side, 3)
        blotches = rng.normal(0, 0.25, shape) + rng.normal(0, 0.25, (num_frames, *shape))
        blotches = blotches.astype(np.float32)
        clouds += blotches.repeat(side, axis=1).repeat(side, axis=2)
    return clouds


def sound(label: int, noise: float, rng: Generator) -> npt.NDArray[np.float32]:
    """(SAMPLE_RATE,): a second of a tune with its rhythm, in a hiss and between stray tones."""
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
    loud: npt.NDArray[np.float32] = (
        10 ** rng.uniform(-0.4, 0.0) * 0.5 * mixed / np.abs(mixed).max()
    ).astype(np.float32)
    return loud


def _tune(label: int) -> tuple[Array, Array]:
    """Onsets in eighths of a second and pitches in Hz of the class, five each."""
    rng = _class_rng(2, label)
    onsets = np.sort(rng.permutation(8)[:5]) / 8
    return onsets, 220 * SEMITONE ** rng.integers(0, 36, 5)


def _tone(start: float, pitch: float, rng: Generator) -> Array:
    """A struck tone with one overtone that fades within an eighth of a second, going round at the end."""
    time = (np.arange(SAMPLE_RATE) / SAMPLE_RATE - start) % 1.0
    phase = 2 * np.pi * pitch * time
    tone: Array = (
        (np.sin(phase) + 0.4 * np.sin(2 * phase)) * np.exp(-time / 0.12) * rng.uniform(0.7, 1.0)
    )
    return tone


def trace(label: int, noise: float, rng: Generator) -> npt.NDArray[np.float32]:
    """(6, 64): six channels of a swinging sensor, each with the class's own frequency and phase."""
    own = _class_rng(3, label)
    frequencies, phases = own.uniform(1, 6, (6, 2)), own.uniform(0, 2 * np.pi, (6, 2))
    heights = own.uniform(0.3, 1, (6, 2))
    time = np.linspace(0, 1, 64)[:, None, None] * rng.uniform(0.9, 1.1) + rng.uniform(-0.06, 0.06)
    swing = (heights * np.sin(2 * np.pi * frequencies * time + phases)).sum(-1).T * rng.uniform(
        0.7, 1.3, (6, 1)
    )
    drift = rng.normal(0, 0.5, (6, 64)).cumsum(1)
    mixed: npt.NDArray[np.float32] = ((1 - noise) * swing + noise * drift).astype(np.float32)
    return mixed


def still(label: int, noise: float, rng: Generator) -> npt.NDArray[np.uint8]:
    """(SIZE, SIZE, 3): one frame of the class's picture."""
    frame: npt.NDArray[np.uint8] = picture(label, noise, rng, num_frames=1)[0]
    return frame


def words(label: int, noise: float, rng: Generator) -> npt.NDArray[np.str_]:
    """(8 to 16,): words of the class among stray ones that have the same letters."""
    own = _words(6, _class_rng(4, label))
    num = int(rng.integers(8, 17))
    drawn, strays = rng.choice(own, num), _words(num, rng)
    return np.where(rng.random(num) < noise, strays, drawn)


def _words(num: int, rng: Generator) -> npt.NDArray[np.str_]:
    """(num,): words of two or three syllables, each a consonant and a vowel of one to three bytes."""
    syllables = [
        "".join(pair)
        for pair in zip(rng.choice(CONSONANTS, 3 * num), rng.choice(VOWELS, 3 * num), strict=True)
    ]
    lengths = enumerate(rng.integers(2, 4, num))
    return np.array(["".join(syllables[3 * i : 3 * i + length]) for i, length in lengths])


PATTERNS: dict[str, Callable[[int, float, Generator], Array]] = {
    "video": picture,
    "audio": sound,
    "image": still,
    "tensor": trace,
    "text": words,
}
