"""A small value that fits a JSON schema, for clients that can't go on without one.

It knows what SDKs write for the types of their users: objects, lists, enums, unions, references. Of what only a solver
could satisfy (patterns, dependent fields) it satisfies nothing. The schema is a stranger's, so depth and size of the
value are bounded: what is beyond them is null.
"""

from collections.abc import Mapping

MAX_DEPTH = 16
MAX_VALUES = 1000
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "nobody@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
}


def example_of(schema: object) -> object:
    """The value, made of JSON's types."""
    return _Example(schema).of(schema, depth=0)


class _Example:
    def __init__(self, root: object) -> None:
        self._root = root
        self._values_left = MAX_VALUES

    def of(self, schema: object, *, depth: int) -> object:
        self._values_left -= 1
        if not isinstance(schema, Mapping) or depth > MAX_DEPTH or self._values_left < 0:
            return None
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        if isinstance(schema.get("$ref"), str):
            return self.of(self._referred(schema["$ref"]), depth=depth + 1)
        parts = schema.get("allOf")
        if isinstance(parts, list) and parts:
            return _merged([self.of(part, depth=depth + 1) for part in parts])
        for name in ("anyOf", "oneOf"):
            options = schema.get(name)
            if isinstance(options, list) and options:
                return self.of(options[0], depth=depth + 1)
        options = schema.get("enum")
        return options[0] if isinstance(options, list) and options else self._of_type(schema, depth=depth + 1)

    def _of_type(self, schema: Mapping[str, object], *, depth: int) -> object:
        kind = _type_of(schema)
        if kind == "object":
            fields = schema.get("properties")
            known = fields if isinstance(fields, Mapping) else {}
            return {name: self.of(field, depth=depth) for name, field in known.items()}
        if kind == "array":
            count = min(_least(schema, "minItems", 1), max(self._values_left, 0))
            return [self.of(schema.get("items"), depth=depth) for _ in range(count)]
        if kind == "string":
            return _FORMATS.get(str(schema.get("format")), "sandbox").ljust(_least(schema, "minLength", 0), "x")
        if kind in ("integer", "number"):
            return _number(schema)
        return False if kind == "boolean" else None

    def _referred(self, path: str) -> object:
        """What `#/$defs/Name` points at."""
        found = self._root
        for name in path.removeprefix("#").strip("/").split("/"):
            if name:
                found = found.get(name) if isinstance(found, Mapping) else None
        return found


def _type_of(schema: Mapping[str, object]) -> object:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((each for each in kind if each != "null"), None)
    return "object" if kind is None and "properties" in schema else kind


def _least(schema: Mapping[str, object], name: str, least: int) -> int:
    found = schema.get(name)
    return min(found, MAX_VALUES) if isinstance(found, int) else least


def _number(schema: Mapping[str, object]) -> int | float:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    if isinstance(least, (int, float)):
        return least
    return above + 1 if isinstance(above, (int, float)) else 0


def _merged(values: list[object]) -> object:
    if not all(isinstance(value, dict) for value in values):
        return values[0]
    return {name: field for value in values if isinstance(value, dict) for name, field in value.items()}
