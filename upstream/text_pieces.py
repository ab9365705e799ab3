"""Long texts in pieces that have as many tokens together as the whole has.

While the tokenizer counts a piece no other thread of the process runs, so a piece has a bound, and the search for where
it may end has one too. Both tokenizers split a text into words before they make tokens, and make none over the end of a
word; `_ENDS` finds ends that are some in any text around them. A text that has none for `WINDOW` characters (one word,
one number, signs or blanks alone) is cut all the same, and may count a few tokens more or less per cut than the whole.
"""

import re
from collections.abc import Iterator

LONGEST = 1 << 15
"""Characters: some 10 ms of the tokenizer, whatever they are."""
WINDOW = 1 << 11
"""Characters that are searched for the end of a word."""
_ENDS = re.compile(
    r"(?<=\S)(?=[ \t])"  # a blank belongs to what follows
    r"|(?<=[^\W_])(?=[\r\n])"  # after signs a new line belongs to them
    r"|(?<=\n)(?=[^\s/])"
    r"|(?<=[^\W_])(?=[!-&(-.:-@\[-`{-~、。，！？；：「」])"  # not the apostrophe (it's)
    r"|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
)


def pieces(text: str, *, longest: int = LONGEST, window: int = WINDOW) -> Iterator[str]:
    """The text in pieces of at most `longest` characters, as the module has it."""
    start = 0
    while len(text) - start > longest:
        least = start + longest - window
        found = _ENDS.search(text, least, start + longest)
        cut = start + longest if found is None else found.start()
        yield text[start:cut]
        start = cut
    yield text[start:]
