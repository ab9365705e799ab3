"""JSON schemas of answers as each protocol's strict mode wants them.

Anthropic wants it said of each object that it has no other fields. OpenAI's strict mode wants that too, and that every
field is required.
"""


def closed(schema: object) -> object:
    """The schema, its objects without fields but those that are named, unless it says otherwise."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    return {"additionalProperties": False, **made} if _is_object(schema) else made


def is_strict(schema: object) -> bool:
    """Whether OpenAI's strict mode takes it once it is `closed`: no field may be left out, none may be added."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if _is_object(schema):
        required, properties = schema.get("required"), schema.get("properties")
        named = set(properties) if isinstance(properties, dict) else set()
        listed = {each for each in required if isinstance(each, str)} if isinstance(required, list) else set()
        if named - listed or schema.get("additionalProperties", False) is not False:
            return False
    return all(map(is_strict, schema.values()))


def _is_object(schema: dict[str, object]) -> bool:
    kind = schema.get("type")
    return "object" in kind if isinstance(kind, list) else kind == "object"
