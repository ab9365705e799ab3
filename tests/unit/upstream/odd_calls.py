"""Tool calls in the pieces in which providers stream them: as OpenAI does, and in every odd way that we know of."""

import json
from typing import Any

Piece = dict[str, Any]
Calls = list[list[Piece]]


def pieces_of(calls: list[dict[str, Any]], *, cut: int) -> Calls:
    """Each call as OpenAI sends it: number, id and name first, then pieces of the arguments."""
    found = []
    for number, call in enumerate(calls):
        text = json.dumps(call["input"])
        parts = [text[at : at + cut] for at in range(0, len(text), cut)]
        head = {"index": number, "id": f"call_{number}", "function": {"name": call["name"], "arguments": ""}}
        found.append([head, *({"index": number, "function": {"arguments": part}} for part in parts)])
    return found


def whole(call: list[Piece]) -> list[Piece]:
    arguments = "".join(piece["function"].get("arguments", "") for piece in call)
    return [{**call[0], "function": {**call[0]["function"], "arguments": arguments}}]


def split_name(call: list[Piece]) -> list[Piece]:
    name = call[0]["function"]["name"]
    return [
        {**call[0], "function": {"name": name[:2]}},
        {"index": call[0]["index"], "function": {"name": name[2:]}},
        *call[1:],
    ]


def repeated(call: list[Piece]) -> list[Piece]:
    head, name = call[0], call[0]["function"]["name"]
    return [head, *({**piece, "id": head["id"], "function": {"name": name, **piece["function"]}} for piece in call[1:])]


def at(number: int | None, call: list[Piece]) -> list[Piece]:
    return [{**piece, "index": number} for piece in call]


def named(call_id: str | None, call: list[Piece]) -> list[Piece]:
    return [{**piece, "id": call_id} for piece in call]


def new_ids(call: list[Piece]) -> list[Piece]:
    return [{**piece, "id": f"{call[0]['id']}-{number}"} for number, piece in enumerate(call)]


def without_index(call: list[Piece]) -> list[Piece]:
    return [{name: value for name, value in piece.items() if name != "index"} for piece in call]


ODD = {
    "as it should be": lambda calls: calls,
    "repeated": lambda calls: [repeated(call) for call in calls],
    "name in pieces": lambda calls: [split_name(call) for call in calls],
    "one number": lambda calls: [at(0, call) for call in calls],
    "one number, repeated": lambda calls: [at(0, repeated(call)) for call in calls],
    "one number, name in pieces": lambda calls: [at(0, split_name(call)) for call in calls],
    "one number, null ids": lambda calls: [at(0, named(None, call)) for call in calls],
    "one number, null ids, name with each piece": lambda calls: [at(0, named(None, repeated(call))) for call in calls],
    "one number, null ids, name in pieces": lambda calls: [at(0, named(None, split_name(call))) for call in calls],
    "one number, empty ids, whole": lambda calls: [at(0, named("", whole(call))) for call in calls],
    "one number, one id": lambda calls: [at(0, named("x", call)) for call in calls],
    "one number, one id, repeated": lambda calls: [at(0, named("x", repeated(call))) for call in calls],
    "one number, one id, whole": lambda calls: [at(0, named("x", whole(call))) for call in calls],
    "one number, new ids with every piece": lambda calls: [at(0, new_ids(call)) for call in calls],
    "numbers, new ids with every piece": lambda calls: [new_ids(call) for call in calls],
    "numbers, one id": lambda calls: [named("x", call) for call in calls],
    "numbers, null ids": lambda calls: [named(None, call) for call in calls],
    "no numbers": lambda calls: [without_index(call) for call in calls],
    "no numbers, repeated": lambda calls: [without_index(repeated(call)) for call in calls],
    "no numbers, new ids with every piece": lambda calls: [without_index(new_ids(call)) for call in calls],
    "no numbers, one id, whole": lambda calls: [without_index(named("x", whole(call))) for call in calls],
    "null numbers, no ids": lambda calls: [at(None, named(None, call)) for call in calls],
    "null numbers, no ids, whole": lambda calls: [at(None, named(None, whole(call))) for call in calls],
    "numbers that skip": lambda calls: [at(3 * number + 1, call) for number, call in enumerate(calls)],
    "numbers that come back": lambda calls: [at(number % 2, call) for number, call in enumerate(calls)],
    "numbers that come back, no ids": lambda calls: [at(n % 2, named(None, call)) for n, call in enumerate(calls)],
    "numbers as texts": lambda calls: [at(str(number), call) for number, call in enumerate(calls)],  # type: ignore[arg-type]  # that is odd
    "the right id below another number": lambda calls: [
        [call[0], *({**piece, "index": 0, "id": call[0]["id"]} for piece in call[1:])] for call in calls
    ],
}
MIXABLE = ["as it should be", "repeated", "name in pieces", "numbers, null ids", "numbers, one id", "numbers that skip"]
MIXABLE += ["one number, repeated", "no numbers, repeated", "the right id below another number"]
