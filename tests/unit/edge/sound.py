"""Sounds for tests, made of nothing but silence."""

import io
import wave


def wav(seconds: float) -> bytes:
    """A WAV file of 16-bit silence at 8 kHz."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * round(8000 * seconds)))
    return made.getvalue()
