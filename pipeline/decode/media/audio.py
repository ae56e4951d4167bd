"""Log spectrogram of decoded audio frames, via a mono waveform of fixed length."""

from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from av import AudioFrame, AudioResampler
from torchaudio.transforms import MelSpectrogram, Spectrogram

from pipeline.arrays import Array
from pipeline.decode.config import AudioSpec
from pipeline.decode.media.shapes import num_samples
from pipeline.errors import SampleError

_FLOOR = 1e-7
_MAX_PLANES = 7


class Waveform:
    """Collects the first `spec.seconds` of a stream as mono audio at `spec.sample_rate`.

    Args:
        spec: spec of the modality.
        lead: seconds of silence before the stream.
    """

    def __init__(self, spec: AudioSpec, lead: Fraction) -> None:
        self._spec = spec
        self._num_silent = min(round(lead * spec.sample_rate), num_samples(spec))
        self._resampler: AudioResampler | None = None
        self._format: tuple[int, int] | None = None
        self._blocks: list[Array] = []
        self._num_missing = num_samples(spec)

    @property
    def is_full(self) -> bool:
        """Whether no more audio is needed."""
        return self._num_missing <= 0

    def add(self, frame: AudioFrame | None) -> None:
        """Add a decoded frame, or None at the end of the stream.

        Raises SampleError if the frame is damaged or differs in format from the previous ones.
        """
        if self.is_full or (frame is None and self._resampler is None):
            return
        if frame is not None:
            self._check(frame)
        if self._resampler is None:
            # PyAV counts planes up to a null pointer, but FFmpeg has 8 pointers and no null after
            # them: with 8 planes or more, PyAV would read invalid memory. Interleaved audio is one
            # plane.
            self._resampler = AudioResampler(
                format="flt" if self._format and self._format[1] > _MAX_PLANES else "fltp",
                rate=self._spec.sample_rate,
            )
        for block in self._resampler.resample(frame):
            planes = (
                block.to_ndarray()
                if block.format.is_planar
                else block.to_ndarray().reshape(-1, len(block.layout.channels)).T
            )
            # FFmpeg's own downmix would make stereo 3 dB louder than the same audio in mono.
            values = planes.mean(axis=0, dtype=np.float32)
            self._blocks.append(values)
            self._num_missing -= len(values)

    def _check(self, frame: AudioFrame) -> None:
        frame_format = frame.sample_rate, frame.layout.nb_channels
        if frame.is_corrupt:
            raise SampleError("undecodable", "Damaged audio frame.")
        if frame_format != (self._format or frame_format):
            raise SampleError(
                "undecodable",
                "Sample rate and number of channels change within the audio stream,"
                f" from {self._format} to {frame_format}.",
            )
        self._format = frame_format

    def spectrogram(self) -> Array:
        """Return log(S + 1e-7), (1, bins, windows) float16. Raises SampleError."""
        if not any(len(block) for block in self._blocks):
            raise SampleError("empty", "The audio stream has no samples.")
        wave = np.concatenate([np.zeros(self._num_silent, np.float32), *self._blocks])
        num = num_samples(self._spec)
        wave = (
            np.resize(wave, num)
            if self._spec.pad == "repeat"
            else np.pad(wave[:num], (0, max(0, num - len(wave))))
        )
        with torch.inference_mode():
            power = _transform(self._spec)(torch.from_numpy(np.ascontiguousarray(wave)))
            values = torch.log(power + _FLOOR).to(torch.float16).numpy()[None]
        if not np.isfinite(values).all():
            raise SampleError(
                "non_finite",
                "The spectrogram is not finite: the audio has NaN, infinity or values far above 1.",
            )
        return np.asarray(values)


@lru_cache(maxsize=64)
def _transform(spec: AudioSpec) -> torch.nn.Module:
    if spec.features == "log_spectrogram":
        transform: torch.nn.Module = Spectrogram(n_fft=spec.n_fft, hop_length=spec.hop, power=1.0)
    else:
        transform = MelSpectrogram(
            sample_rate=spec.sample_rate,
            n_fft=spec.n_fft,
            hop_length=spec.hop,
            n_mels=spec.num_mels,
        )
    return transform
