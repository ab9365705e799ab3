"""Names of tools. Those that are grouped in namespaces, which a chat does not know, have one name there, of both.

The names are made of a request's tools alone, so that whoever reads the answer makes the same ones.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from services.edge.bodies.responses_fields import Tool
from services.edge.translate.narrow_names import shortened, tool_name


def named_tools(tools: Sequence[Tool]) -> Iterator[tuple[str, str | None, Tool]]:
    """Every tool that can be called with its name in a chat and its namespace; None where it has none."""
    taken = {tool.name for tool in tools if tool.type != "namespace"}
    for tool in tools:
        if tool.type != "namespace":
            yield tool.name or "", None, tool
            continue
        for inner in tool.tools or ():
            name = joined(tool.name or "", inner.name or "")
            if name in taken:
                name = shortened(name)
            taken.add(name)
            yield name, tool.name, inner


def own_names(tools: Sequence[Tool]) -> Mapping[str, tuple[str, str]]:
    """The namespace and name of each tool that has a namespace, by its name in a chat."""
    return {name: (space, tool.name or "") for name, space, tool in named_tools(tools) if space is not None}


def unmistakable(names: Iterable[str]) -> frozenset[str]:
    """Those that begin no other: of a tool so called, nothing of the name can be still to come."""
    ordered = sorted(set(names))
    return frozenset(
        name for name, after in zip(ordered, [*ordered, ""][1:], strict=True) if not after.startswith(name)
    )


def joined(namespace: str, name: str) -> str:
    """One name of both."""
    return tool_name(f"{namespace}__{name}")
