"""Which call a body is quoted as."""

import pytest

from services.edge.paid.quoted_call import called

HI = [{"role": "user", "content": "Hi"}]
PICTURE = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}]}]


@pytest.mark.parametrize(
    ("body", "category", "name"),
    [
        ({"messages": HI}, "chat", "chat"),
        ({"messages": HI, "prompt": "a boat", "input": "x"}, "image", "chat"),
        ({"messages": HI, "tools": [{"type": "function", "function": {"name": "f"}}]}, "chat", "chat"),
        ({"messages": HI, "system": "Be brief."}, "chat", "messages"),
        ({"messages": HI, "tools": [{"name": "f", "input_schema": {}}]}, "chat", "messages"),
        ({"messages": PICTURE}, "chat", "messages"),
        ({"input": "Hi"}, "chat", "responses"),
        ({"input": "Hi", "prompt": None}, None, "responses"),
        ({"input": ["Hi"]}, "embedding", "embeddings"),
        ({"prompt": "Once"}, "chat", "completions"),
        ({"prompt": "Once"}, None, "completions"),
        ({"prompt": "a boat"}, "image", None),
        ({}, None, "chat"),
        ({"messages": 5, "tools": 5}, "chat", "chat"),
        ({"messages": [{"role": "user", "content": [{"type": {}}, {"type": [None]}]}]}, "chat", "chat"),
    ],
)
def test_a_body_tells_which_call_it_is(body: dict, category: str | None, name: str | None):
    """By its fields in a fixed order, and by what its model is for where these leave a choice."""
    operation = called(body, [], category=category)
    assert (operation.name if operation is not None else None) == name


def test_anthropics_own_header_tells_too():
    """Its SDK sends it with every call."""
    operation = called({"messages": HI}, [(b"anthropic-version", b"2023-06-01")], category="chat")
    assert operation is not None
    assert operation.name == "messages"
