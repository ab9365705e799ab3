"""Anthropic's thoughts in a chat: what it has signed goes to the client as `thinking_blocks`, and comes back so.

With thinking on, Anthropic refuses to go on after a tool's result unless it is given the thoughts that led to the call.
A chat has no field for their signatures; this is the one that other gateways use, beside the text in
`reasoning_content`.
"""

from collections.abc import Iterable, Mapping, Sequence

from upstream.anthropic.messages import Block, Delta
from upstream.kept_text import LONGEST_TOKEN, TextRoom

FIELD = "thinking_blocks"
Json = dict[str, object]


class Thoughts:
    """Those of one stream, as they come: which blocks are thoughts, and what they hold so far.

    They are told once more at the end, so there is `room` for them.
    """

    def __init__(self, *, room: TextRoom) -> None:
        self._room = room
        self._blocks: dict[int, Block] = {}
        self._pieces: dict[int, list[str]] = {}
        self._signatures: dict[int, list[str]] = {}

    def begin(self, index: int, block: Block) -> None:
        """A block begins, of any kind. Raises ProviderMisbehaved for more than there is room for."""
        if block.type in ("thinking", "redacted_thinking"):
            held = (block.thinking, block.signature, block.data)
            self._room.take(LONGEST_TOKEN + sum(len(text or "") for text in held))
            self._blocks[index] = block
            self._pieces[index] = [block.thinking or ""]
            self._signatures[index] = [block.signature or ""]

    def add(self, index: int, delta: Delta) -> None:
        """A piece of one. Raises as `begin`."""
        if index in self._blocks:
            self._room.take(len(delta.thinking or "") + len(delta.signature or ""))
            self._pieces[index].append(delta.thinking or "")
            self._signatures[index].append(delta.signature or "")

    def shown(self) -> list[Json]:
        """Those that are signed, for the client."""
        return signed(
            Block(
                type=block.type,
                thinking="".join(self._pieces[index]),
                signature="".join(self._signatures[index]),
                data=block.data,
            )
            for index, block in self._blocks.items()
        )


def signed(blocks: Iterable[Block]) -> list[Json]:
    """The thoughts among these blocks that Anthropic will know again, numbered, since SDKs merge lists by that."""
    made: list[Json] = []
    for block in blocks:
        if block.type == "thinking" and block.signature:
            thought: Json = {"type": block.type, "thinking": block.thinking or "", "signature": block.signature}
            made.append({"index": len(made), **thought})
        elif block.type == "redacted_thinking" and block.data:
            made.append({"index": len(made), "type": block.type, "data": block.data})
    return made


def given_back(message: Mapping[str, object]) -> list[Json]:
    """The thoughts of an earlier answer, as Anthropic's blocks; what is none is left out."""
    given = message.get(FIELD)
    made: list[Json] = []
    for block in given if isinstance(given, list) else []:
        kind = block.get("type") if isinstance(block, dict) else None
        names = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}.get(str(kind), ())
        if names and all(isinstance(block.get(name), str) for name in names) and block[names[-1]]:
            made.append({"type": kind, **{name: block[name] for name in names}})
    return made


def may_think(turns: Sequence[tuple[str, list[Json]]]) -> bool:
    """Whether Anthropic lets a budget for thinking stand: not when a tool's result comes and no thought led to it."""
    if len(turns) < 2 or turns[-1][1][0]["type"] != "tool_result":
        return True
    return str(turns[-2][1][0]["type"]).endswith("thinking")
