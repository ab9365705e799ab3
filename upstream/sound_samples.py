"""Samples into samples, piece by piece: of another rate, and faster or slower at their own pitch.

The rate is changed by a windowed sinc, a row of weights for each place that a new sample can have between two old ones.
The speed is changed by overlap and add: windows of the sound, moved a little to where they go on best from what
was said before, are faded into each other. Numbers are floats in the range of 16 bits; nothing here waits for the end.
To be imported late: numpy takes its time.
"""

import math

import numpy
from numpy.typing import NDArray

Values = NDArray[numpy.float32]
_REACH = 16
"""Samples on either side that a new one is made of, where the rate grows."""
_PASSES = 0.94
"""Of the band that both rates can hold: the rest is the filter's slope."""
_WINDOWS_PER_S = 50
_LOOSE_PER_S = 100
"""A window moves by so much at most: the longest period of a voice."""


class Changed:
    """16-bit samples of one rate in, of another out. `tempo` 2 makes them twice as fast (0.1 to 16)."""

    def __init__(self, *, rate: int, wanted: int, tempo: float = 1.0) -> None:
        self._steps: list[_Stretched | _Resampled] = []
        if tempo != 1:
            self._steps.append(_Stretched(rate=rate, tempo=tempo))
        if rate != wanted:
            self._steps.append(_Resampled(rate=rate, wanted=wanted))

    def feed(self, samples: bytes) -> bytes:
        """What of the new samples is ready now; `samples` are whole ones."""
        if not self._steps:
            return samples
        values: Values = numpy.frombuffer(samples, dtype="<i2").astype("f4")
        for step in self._steps:
            values = step.feed(values)
        return self._bytes(values)

    def end(self) -> bytes:
        """The rest of them."""
        values: Values = numpy.zeros(0, dtype="f4")
        for step in self._steps:
            values = numpy.concatenate([step.feed(values), step.end()])
        return self._bytes(values)

    def _bytes(self, values: Values) -> bytes:
        return bytes(numpy.clip(numpy.rint(values), -32768, 32767).astype("<i2").tobytes())


class _Resampled:
    def __init__(self, *, rate: int, wanted: int) -> None:
        shared = math.gcd(rate, wanted)
        self._up, self._down = wanted // shared, rate // shared
        shrinks = max(1.0, rate / wanted)
        self._reach = math.ceil(_REACH * shrinks)
        at = numpy.arange(1 - self._reach, self._reach + 1) - numpy.arange(self._up)[:, None] / self._up
        weights = numpy.sinc(at * _PASSES / shrinks) * numpy.cos(at * math.pi / 2 / self._reach) ** 2
        self._weights = (weights / weights.sum(axis=1, keepdims=True)).astype("f4")
        self._kept = numpy.zeros(self._reach - 1, dtype="f4")
        self._begin = 1 - self._reach  # which of the old samples is the first of the kept ones
        self._made = 0

    def feed(self, values: Values) -> Values:
        kept = numpy.concatenate([self._kept, values])
        until = max(self._made, -(-(self._begin + len(kept) - self._reach) * self._up // self._down))
        places = numpy.arange(self._made, until) * self._down
        first = places // self._up + 1 - self._reach - self._begin
        windows = first[:, None] + numpy.arange(2 * self._reach)
        out: Values = numpy.einsum("ij,ij->i", kept[windows], self._weights[places % self._up])
        used = until * self._down // self._up + 1 - self._reach - self._begin
        self._kept, self._begin, self._made = kept[used:], self._begin + used, until
        return out

    def end(self) -> Values:
        return self.feed(numpy.zeros(self._reach, dtype="f4"))


class _Stretched:
    def __init__(self, *, rate: int, tempo: float) -> None:
        self._tempo = tempo
        self._hop, self._loose = rate // _WINDOWS_PER_S, rate // _LOOSE_PER_S
        self._fade = (0.5 - 0.5 * numpy.cos(math.pi * (numpy.arange(self._hop) + 0.5) / self._hop)).astype("f4")
        self._kept = numpy.zeros(0, dtype="f4")
        self._begin = self._fed = self._made = 0
        self._tail: Values | None = None

    def feed(self, values: Values) -> Values:
        self._kept = numpy.concatenate([self._kept, values])
        self._fed += len(values)
        out = [numpy.zeros(0, dtype="f4")]
        while (place := self._place()) + self._loose + 2 * self._hop <= self._begin + len(self._kept):
            out.append(self._window(place))
            self._made += self._hop
            used = max(0, self._place() - self._loose - self._begin)
            self._kept, self._begin = self._kept[used:], self._begin + min(used, len(self._kept))
        return numpy.concatenate(out)

    def end(self) -> Values:
        """As much as is still due: silence pushes the last of it out."""
        due = max(0, round(self._fed / self._tempo) - self._made)
        silence = math.ceil(self._hop * self._tempo) + self._loose + 4 * self._hop
        return self.feed(numpy.zeros(silence, dtype="f4"))[:due]

    def _place(self) -> int:
        """Where in the old sound the next window is due."""
        return round(self._made * self._tempo)

    def _window(self, place: int) -> Values:
        low = max(self._begin, place - self._loose)
        area = self._kept[low - self._begin : place + self._loose + self._hop - self._begin]
        at = 0 if self._tail is None else _best(area, self._tail)
        start = low + at - self._begin
        window, follows = self._kept[start : start + self._hop], start + self._hop
        made = window if self._tail is None else self._tail * (1 - self._fade) + window * self._fade
        self._tail = self._kept[follows : follows + self._hop]
        return made


def _best(area: Values, tail: Values) -> int:
    """Where in the area the sound is most like the tail, the one that would have come next."""
    likeness = numpy.correlate(area, tail, mode="valid")
    power = numpy.concatenate([[0.0], numpy.cumsum(area.astype("f8") ** 2)])
    loudness = numpy.sqrt(numpy.maximum(power[len(tail) :] - power[: -len(tail)], 1.0))
    return int(numpy.argmax(likeness / loudness))
