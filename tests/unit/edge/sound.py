"""Sounds for tests, made of nothing but silence."""

import io
import wave

import httpx

PATH = "/audio/transcriptions"


def wav(seconds: float) -> bytes:
    """A WAV file of 16-bit silence at 8 kHz."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * round(8000 * seconds)))
    return made.getvalue()


def form(data: bytes = b"", *, path: str = PATH, **fields: str) -> dict:
    """What to post: a sound of two and a half seconds unless said otherwise."""
    file = ("speech.wav", data or wav(2.5), "audio/wav")
    made = httpx.Request("POST", "http://form", data={"model": "fast", **fields}, files={"file": file})
    return {"path": path, "body": made.read(), "headers": {"content-type": made.headers["content-type"]}}
