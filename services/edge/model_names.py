"""What the names in a key's list of models cover: a model by its id, or with `openai/*` all that are below."""

from collections.abc import Collection

WILDCARD_ENDING = "/*"


def is_wildcard(name: str) -> bool:
    """Whether it stands for the names below it."""
    return name.endswith(WILDCARD_ENDING)


def is_below(wildcard: str, name: str) -> bool:
    """Whether the wildcard stands for that name."""
    prefix = wildcard.removesuffix("*")
    return name.startswith(prefix) and len(name) > len(prefix)


def may_use(listed: Collection[str], model: str) -> bool:
    """Whether a key with this list (empty: every model) may use the model of that id."""
    if not listed or model in listed:
        return True
    return any(is_wildcard(entry) and is_below(entry, model) for entry in listed)
