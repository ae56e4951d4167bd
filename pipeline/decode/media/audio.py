"""Sound: decoded frames -> mono waveform of a fixed length -> log spectrogram."""

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
_MOST_PLANES = 7


class Waveform:
    """Collects the first `seconds` of a stream, mono, at the sample rate asked for."""

    def __init__(self, spec: AudioSpec) -> None:
        self._spec = spec
        self._resampler: AudioResampler | None = None
        self._form: tuple[int, int] | None = None
        self._blocks: list[Array] = []
        self._missing = num_samples(spec)

    @property
    def full(self) -> bool:
        """Whether no more sound is needed."""
        return self._missing <= 0

    def add(self, frame: AudioFrame | None) -> None:
        """Adds a decoded frame; None stands for the end of the stream (raises SampleError where the frame is damaged or unlike those before)."""
        if self.full or (frame is None and self._resampler is None):
            return
        if frame is not None:
            self._check(frame)
        if self._resampler is None:
            # PyAV counts planes up to a null pointer, which does not stand behind the eighth: it would read on from nowhere.
            self._resampler = AudioResampler(
                format="flt" if self._form and self._form[1] > _MOST_PLANES else "fltp",
                rate=self._spec.sample_rate,
            )
        for block in self._resampler.resample(frame):
            planes = (
                block.to_ndarray()
                if block.format.is_planar
                else block.to_ndarray().reshape(-1, len(block.layout.channels)).T
            )
            # The mean of the channels; FFmpeg's own mono is louder by 3 dB for stereo than for mono sound.
            values = planes.mean(axis=0, dtype=np.float32)
            self._blocks.append(values)
            self._missing -= len(values)

    def _check(self, frame: AudioFrame) -> None:
        form = frame.sample_rate, frame.layout.nb_channels
        if frame.is_corrupt:
            raise SampleError("undecodable", "a block of the sound is damaged")
        if form != (self._form or form):
            raise SampleError(
                "undecodable", f"(rate, channels) of the sound change from {self._form} to {form}"
            )
        self._form = form

    def spectrogram(self) -> Array:
        """(1, bins, time) float16, log(S + 1e-7) (raises SampleError)."""
        wave = np.concatenate(self._blocks) if self._blocks else np.empty(0, np.float32)
        if not len(wave):
            raise SampleError("empty", "the audio stream has no samples")
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
                "the spectrogram has values that are not finite: the sound holds NaN, infinity or values far above 1",
            )
        return np.asarray(values)


@lru_cache(maxsize=64)
def _transform(spec: AudioSpec) -> torch.nn.Module:
    if spec.features == "log_spectrogram":
        made: torch.nn.Module = Spectrogram(n_fft=spec.n_fft, hop_length=spec.hop, power=1.0)
    else:
        made = MelSpectrogram(
            sample_rate=spec.sample_rate,
            n_fft=spec.n_fft,
            hop_length=spec.hop,
            n_mels=spec.num_mels,
        )
    return made
