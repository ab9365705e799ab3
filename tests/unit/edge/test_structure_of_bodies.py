"""How deep and how manifold a body may be: bounds that no honest client meets, found fast whatever the body holds."""

import json
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.chat_request import parse_chat
from services.edge.bodies.messages_request import parse_messages
from services.edge.bodies.request_body import MAX_DEPTH, MOST_CONTAINERS, aside, check_structure, structure_of
from services.edge.bodies.responses_request import parse_responses
from services.edge.http.body_room import SMALL_BYTES

TEXTS = st.text(alphabet='ab"\\{}[]\n\t/u00é', max_size=8)
JSON = st.recursive(
    st.none() | st.integers(0, 99) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def containers(value: object) -> int:
    """Objects and lists in a value, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(containers, value.values()))
    return 1 + sum(map(containers, value)) if isinstance(value, list) else 0


@settings(max_examples=40)
@given(value=JSON)
def test_brackets_in_texts_are_no_structure(value: object) -> None:
    """Whatever texts hold, quotes and backslashes above all, just the brackets of objects and lists are found."""
    for body in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert len(structure_of(body.encode())) == 2 * containers(value)


def test_texts_longer_than_a_slice_hide_their_brackets() -> None:
    """The search goes slice by slice; a text that reaches over several is one text still."""
    body = json.dumps(["[" * 3_000_000, "]{" * 1_200_000, {}, '"'])
    assert structure_of(body.encode()) == b"[{}]"


@pytest.mark.parametrize(("levels", "fits"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
@pytest.mark.parametrize("ends", ["[]", '{"a":}'], ids=["lists", "objects"])
def test_depth_is_exact(levels: int, fits: bool, ends: str) -> None:
    """Brackets in texts count for nothing."""
    opening, closing = ends[:-1], ends[-1]
    body = f'{opening * levels}"{"[" * 100}"{closing * levels}'.encode()
    assert len(structure_of(body)) == 2 * levels
    if fits:
        check_structure(body)
        return
    with pytest.raises(TollbridgeError, match="nested deeper"):
        check_structure(body)


def conversation(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "x"}] * number


@pytest.mark.parametrize(
    ("parse", "body", "field"),
    [
        (parse_chat, {"messages": conversation(MOST_CONTAINERS)}, "messages"),
        (parse_messages, {"messages": conversation(MOST_CONTAINERS), "max_tokens": 9}, "messages"),
        (parse_responses, {"input": conversation(MOST_CONTAINERS)}, "input"),
        (parse_chat, {"messages": conversation(9), "novel": [[]] * MOST_CONTAINERS}, "novel"),
    ],
    ids=["chat", "messages", "responses", "a field that nobody knows"],
)
def test_a_body_of_too_many_parts_is_refused_by_its_largest_field(parse: Any, body: dict[str, object], field: str):
    """Each part costs all others on this replica some time; nobody has so many to say in 20 MiB."""
    with pytest.raises(TollbridgeError) as refused:
        parse(msgspec.json.encode({"model": "m", **body}))
    assert (refused.value.code, refused.value.details) == (Code.INVALID_REQUEST, {"param": field})


def test_as_many_messages_as_anthropic_takes_are_taken() -> None:
    """Its own limit is 100,000 in one request."""
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": conversation(100_000)})
    assert parse_messages(body).model == "m"


def test_code_in_a_message_has_as_many_brackets_as_it_likes() -> None:
    """They are text."""
    content = "int main() { return a[0]; }" * 100_000
    assert parse_chat(msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": content}]}))


@pytest.mark.parametrize(("size", "apart"), [(SMALL_BYTES, False), (SMALL_BYTES + 1, True)])
async def test_what_is_made_of_a_large_body_is_made_beside_the_loop(size: int, apart: bool) -> None:
    """Everybody's streams run on the loop; a small body is not worth a thread."""
    ran_in = await aside(bytes(size), threading.get_ident)
    assert (ran_in != threading.get_ident()) is apart
