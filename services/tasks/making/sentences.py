"""Cuts a long text into pieces that can be spoken one by one: after a sentence, else after a word. Pure."""

import re

_SENTENCE = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[」』]?\s*|\n\s*")
_WORD = re.compile(r"\s+")


def pieces_of(text: str, *, most: int) -> list[str]:
    """The same text in pieces of at most `most` characters, each with something but blanks in it where that can be."""
    pieces, start = [], 0
    while len(text) - start > most:
        end = _last(_SENTENCE, text, start, start + most) or _last(_WORD, text, start, start + most) or start + most
        pieces.append(text[start:end])
        start = end
    if text[start:].strip() or not pieces:
        pieces.append(text[start:])
    else:
        pieces[-1] += text[start:]
    return pieces


def _last(mark: re.Pattern[str], text: str, start: int, end: int) -> int:
    """The end of the last such mark that leaves something to say before it; 0 where there is none."""
    ends = [found.end() for found in mark.finditer(text, start, end) if text[start : found.start()].strip()]
    return ends[-1] if ends else 0
