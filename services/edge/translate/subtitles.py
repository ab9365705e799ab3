"""Transcripts as texts: plain, and as SubRip and WebVTT subtitles, made of the segments that a provider found."""

from collections.abc import Mapping, Sequence

import msgspec

_MOST_S = 360_000.0 - 0.001
"""Just below a hundred hours, which no subtitles can say."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Segment(msgspec.Struct, frozen=True):
    """A stretch of speech, in seconds from the start."""

    start: float = 0.0
    end: float = 0.0
    text: str = ""


def segments_of(fields: Mapping[str, msgspec.Raw], *, text: str, duration_ms: int) -> Sequence[Segment]:
    """The answer's segments; all of its text as one where it has none."""
    try:
        found = msgspec.json.decode(fields.get("segments", b"null"), type=list[Segment] | None)
    except _UNREADABLE:
        found = None
    return found or [Segment(start=0.0, end=duration_ms / 1000, text=text)]


def srt(segments: Sequence[Segment]) -> str:
    """SubRip."""
    blocks = [
        f"{number}\n{_time(each.start, ',')} --> {_time(each.end, ',')}\n{_line(each.text)}\n"
        for number, each in enumerate(segments, 1)
    ]
    return "\n".join(blocks)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT."""
    blocks = [f"{_time(each.start, '.')} --> {_time(each.end, '.')}\n{_line(each.text)}\n" for each in segments]
    return "\n".join(["WEBVTT\n", *blocks])


def _time(seconds: float, point: str) -> str:
    ms = round(min(max(0.0, seconds), _MOST_S) * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _line(text: str) -> str:
    """One cue's text: a blank line, or an arrow, would end it."""
    return " ".join(text.split()).replace("-->", "→")
