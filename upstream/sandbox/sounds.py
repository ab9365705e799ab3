"""The sandbox's transcripts: its own words for every sound, as long as the sound is, and honest about not listening."""

import math

import msgspec

from upstream.form import Form
from upstream.sandbox.script import Script
from upstream.sounds import duration_of

_HONEST = "This is Tollbridge's built-in sandbox: nobody listened."
_MS = 1000


class SoundAnswer:
    """One transcript in OpenAI's shapes, priced by its seconds."""

    def __init__(self, form: Form, script: Script) -> None:
        self._fields = dict(form.fields)
        self._script = script
        self._text = script.text or _HONEST
        self._seconds = duration_of(form.files[0].data).likely_ms / _MS

    def whole(self) -> bytes:
        """The answer to a call without a stream."""
        said: dict[str, object] = {"text": self._text}
        if self._fields.get("response_format") == "verbose_json":
            segment = {"id": 0, "seek": 0, "start": 0.0, "end": self._seconds, "text": self._text, "tokens": []}
            rates = {"temperature": 0.0, "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0}
            said = {"task": "transcribe", "language": "english", "duration": self._seconds, **said}
            said["segments"] = [{**segment, **rates}]
        return msgspec.json.encode({**said, **self._usage()})

    def events(self) -> list[bytes]:
        """The answer as a stream."""
        words = self._text.split(" ")
        deltas = [word if index == 0 else f" {word}" for index, word in enumerate(words)]
        events = [_event({"type": "transcript.text.delta", "delta": delta}) for delta in deltas]
        return [*events, _event({"type": "transcript.text.done", "text": self._text, **self._usage()})]

    def _usage(self) -> dict[str, object]:
        if not self._script.usage:
            return {}
        return {"usage": {"type": "duration", "seconds": math.ceil(self._seconds)}}


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
