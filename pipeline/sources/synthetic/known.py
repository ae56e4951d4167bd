"""The profiles `crossed`, `hollow` and `leaky`: each sample has a modality that it should train.

They use the patterns of `plain`, at noise levels that depend on the sample.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.sources.synthetic import encoding, patterns, plain
from pipeline.sources.synthetic.profile import Members, Metadata, Outline, Profile, sample_id

EASY = {"audio": 0.5, "video": 0.4}
HARD = {"audio": 0.7, "video": 0.6}
"""Noise levels at which audio and video are about equally difficult to learn."""
CLEAR, WEAK = 0.7, 0.4
"""Noise levels of the audio of `hollow`, and of its video where it has a signal."""
NUM_FRAMES = 4
"""Frames per second of video, as many as are decoded."""
NUM_COPIES = 6
"""Training samples of `leaky` that share an audio."""
HISS = 0.003
"""SD of the hiss that makes each copy of an audio a little different."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a sample contains.

    noise: level by modality, 1 if there is no signal; ideal: the modality that it should train;
    source: number of the sample whose audio it has.
    """

    noise: dict[str, float]
    ideal: str
    source: int


def _one_noisy(outline: Outline) -> Iterator[Content]:
    """In each class, samples whose audio is noisy and samples whose video is noisy alternate."""
    for number in range(len(outline.labels)):
        noisy = ("audio", "video")[number // len(outline.class_names) % 2]
        noise = {name: HARD[name] if name == noisy else EASY[name] for name in EASY}
        yield Content(noise=noise, ideal=noisy, source=number)


def _hollow(outline: Outline) -> Iterator[Content]:
    """The video is weak, and has no signal in three of five samples of each class."""
    for number in range(len(outline.labels)):
        empty = number // len(outline.class_names) % 5 < 3
        noise = {"audio": CLEAR, "video": 1.0 if empty else WEAK}
        yield Content(noise=noise, ideal="audio" if empty else "video", source=number)


def _leaky(outline: Outline) -> Iterator[Content]:
    """As `_one_noisy`, but NUM_COPIES training samples alike in class and noise share an audio."""
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, content in enumerate(_one_noisy(outline)):
        source = number
        if outline.splits[number] == "train":
            group = groups[outline.labels[number], content.ideal]
            group.append(number)
            source = group[(len(group) - 1) // NUM_COPIES * NUM_COPIES]
        yield Content(noise=content.noise, ideal=content.ideal, source=source)


def _draw(
    contents: Callable[[Outline], Iterator[Content]], outline: Outline
) -> Iterator[tuple[Metadata, Members]]:
    for number, content in enumerate(contents(outline)):
        label, noise = outline.labels[number], content.noise
        name = outline.class_names[label]
        copied = patterns.audio(label, noise["audio"], outline.rng(content.source, 0))
        hiss = outline.rng(number, 2).normal(0, HISS, copied.shape)
        waveform = (copied + hiss).astype(np.float32)
        frames = patterns.video(label, noise["video"], outline.rng(number, 1), NUM_FRAMES)
        truth: Metadata = {
            modality: {"class": name if level < 1 else None, "wrong": False, "noise": level}
            for modality, level in noise.items()
        }
        metadata: Metadata = {
            "truth": truth,
            "ideal": content.ideal,
            "audio_source": sample_id(content.source),
        }
        clip = encoding.mp4(frames, NUM_FRAMES, waveform, patterns.SAMPLE_RATE)
        yield metadata, {"mp4": clip}


def _profile(contents: Callable[[Outline], Iterator[Content]]) -> Profile:
    return Profile(
        draw=partial(_draw, contents),
        specs={name: plain.SPECS[name] for name in EASY},
        samples=2000,
        shares=(0.5, 0.12, 0.38),
    )


CROSSED, HOLLOW, LEAKY = _profile(_one_noisy), _profile(_hollow), _profile(_leaky)
