"""Long texts are counted in short pieces: exactly where words end, and nearly where none does."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream import text_pieces
from upstream.text_pieces import LONGEST, pieces
from upstream.usage import count_tokens

MODELS = ("gpt-5", "gpt-4")
WORDS = [
    *["a", " b", "\n", "C", "7", ".", " ", "'s", "'S", "é", "語", "word", " ing", "/", "\r\n", "!", "don't", "123456"],
    *[
        "  ",
        "\t",
        "_",
        "-",
        "天气。",
        "、",
        "「x」",
        "\u0301",
        "\u3000",
        "\u00a0",
        "\x1c",
        "🙂",
        "\u200d",
        "ª",
        "٣",
        "ก็",
    ],
    *['{"a":', "}\n", "/\n", ".\n", " \n", "A1b2", "’s", "ſ", "K"],
]
ONE_WORD = {
    "letters": "abcdefghij" * 400,
    "ideographs": "今天天气很好我们去公园玩吧" * 300,
    "one number": "1234567890" * 400,
    "blanks": " " * 4000,
    "signs": "=-" * 2000,
    "lines": "\n" * 4000,
}


@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=25), longest=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_cutting_at_the_end_of_a_word_never_changes_the_count(words: list[str], longest: int) -> None:
    """Wherever a text has one, in both tokenizers: no token is torn and none is made of two."""
    text = "".join(words)
    ends = [found.start() for found in text_pieces._ENDS.finditer(text)]
    cut = [text[start:stop] for start, stop in itertools.pairwise([0, *ends[::longest], len(text)])]
    for model in MODELS:
        assert sum(count_tokens(piece, model) for piece in cut) == count_tokens(text, model)


@given(words=st.lists(st.sampled_from(WORDS), max_size=60), longest=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_pieces_are_bounded_and_all_of_the_text(words: list[str], longest: int) -> None:
    """Whatever it is made of."""
    text = "".join(words)
    found = list(pieces(text, longest=longest, window=longest // 2))
    assert "".join(found) == text
    assert max(map(len, found)) <= longest


@pytest.mark.parametrize("name", ONE_WORD)
def test_what_is_one_word_is_cut_all_the_same_and_counts_nearly_as_much(name: str) -> None:
    """At most four tokens more or less per cut; one more for a number."""
    text = ONE_WORD[name]
    cut = list(pieces(text, longest=1000, window=100))
    assert len(cut) == -(-len(text) // 1000)
    for model in MODELS:
        off = sum(count_tokens(piece, model) for piece in cut) - count_tokens(text, model)
        assert abs(off) <= 4 * (len(cut) - 1)
        assert name != "one number" or 0 <= off <= len(cut) - 1


@pytest.mark.parametrize(
    "unit",
    ["QWxhZGRpbjpvcGVuIHNlc2FtZQ", "今天天气很好我们去公园玩吧。", "1234567890 ", "A1,B2,C3\n", '{"A":1},', "При вет"],
)
def test_no_text_holds_the_tokenizer_for_long(unit: str) -> None:
    """Texts without a lower-case Latin word have ends of words too, and their pieces count as the whole does."""
    text = unit * (3 * LONGEST // len(unit))
    cut = list(pieces(text))
    assert max(map(len, cut)) <= LONGEST
    assert len(cut) <= 5
    assert count_tokens(text, "gpt-5") == _whole(text)


def _whole(text: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("upstream.usage.pieces", lambda text: [text])
        return count_tokens(text, "gpt-5")
