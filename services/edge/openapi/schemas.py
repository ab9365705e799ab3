"""JSON Schema (as OpenAPI 3.1 has it) of the types that bodies are decoded by and answers are checked as."""

import builtins
import inspect
from typing import Any, get_args, get_origin

import msgspec
from msgspec import inspect as types

Schema = dict[str, Any]
_Bounded = types.StrType | types.ListType | types.VarTupleType | types.SetType | types.FrozenSetType | types.DictType

AMOUNT: Schema = {"type": ["string", "number"], "pattern": r"^-?[0-9]{1,7}(\.[0-9]{1,9})?$", "examples": ["4.50"]}
"""Money in a body: its text, or a number."""


class Schemas:
    """Collects the schemas of named types as it makes references to them."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._named: dict[tuple[object, str], str] = {}

    def of(self, shape: object, *, prefix: str = "") -> Schema:
        """The schema of a type. Types of one endpoint alone have its name before theirs: `prefix`."""
        return self._schema(types.type_info(shape), prefix)

    def _schema(self, found: types.Type, prefix: str) -> Schema:  # noqa: PLR0911  one line per kind of type
        match found:
            case types.Metadata():
                return self._schema(found.type, prefix) | (found.extra_json_schema or {})
            case types.StructType() | types.TypedDictType():
                return self._named_object(found, prefix)
            case types.UnionType():
                return self._union(found, prefix)
            case types.ListType() | types.VarTupleType() | types.SetType() | types.FrozenSetType():
                return _bounded(found, {"type": "array", "items": self._schema(found.item_type, prefix)}, "Items")
            case types.DictType():
                values = self._schema(found.value_type, prefix)
                return _bounded(found, {"type": "object", "additionalProperties": values}, "Properties")
            case types.LiteralType():
                return _enum(list(found.values))
        return _plain(found)

    def _named_object(self, found: types.StructType | types.TypedDictType, prefix: str) -> Schema:
        key = (found.cls, prefix)
        name = self._named.get(key)
        if name is None:
            name = _name(found.cls, prefix)
            if name in self.components:
                raise ValueError(f"two types are shown as {name}")
            self._named[key] = name
            self.components[name] = {}  # a type may hold itself
            self.components[name] = self._object(found, prefix)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, found: types.StructType | types.TypedDictType, prefix: str) -> Schema:
        schema: Schema = {"type": "object"}
        words = _words(found.cls)
        if words:
            schema["description"] = words
        schema["properties"] = {each.encode_name: self._schema(each.type, prefix) for each in found.fields}
        required = [each.encode_name for each in found.fields if each.required]
        return schema | ({"required": required} if required else {})

    def _union(self, found: types.UnionType, prefix: str) -> Schema:
        kinds = [each for each in found.types if not isinstance(each, types.NoneType)]
        is_nullable = len(kinds) < len(found.types)
        choices = [self._schema(each, prefix) for each in kinds]
        if is_nullable and len(choices) == 1 and isinstance(choices[0].get("type"), str):
            return _nullable(choices[0])
        if len(choices) == 1 and not is_nullable:
            return choices[0]
        return {"anyOf": [*choices, *([{"type": "null"}] if is_nullable else [])]}


def _plain(found: types.Type) -> Schema:
    match found:
        case types.BoolType():
            return {"type": "boolean"}
        case types.IntType() | types.FloatType():
            kind = "integer" if isinstance(found, types.IntType) else "number"
            bounds = {"minimum": found.ge, "exclusiveMinimum": found.gt, "maximum": found.le}
            return {"type": kind} | {name: value for name, value in bounds.items() if value is not None}
        case types.StrType():
            pattern = {} if found.pattern is None else {"pattern": found.pattern}
            return _bounded(found, {"type": "string"} | pattern, "Length")
        case types.BytesType():
            return {"type": "string", "format": "binary"}
        case types.DecimalType():
            return dict(AMOUNT)
        case types.RawType() | types.AnyType() | types.CustomType(cls=builtins.object):
            return {}
    raise TypeError(f"no schema is known for {found}")


def _bounded(found: _Bounded, schema: Schema, of: str) -> Schema:
    bounds = {f"min{of}": found.min_length, f"max{of}": found.max_length}
    return schema | {name: value for name, value in bounds.items() if value is not None}


def _enum(values: list[Any]) -> Schema:
    kinds = {bool: "boolean", int: "integer", str: "string"}
    return {"type": kinds[type(values[0])], "enum": values}


def _nullable(schema: Schema) -> Schema:
    null = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return schema | {"type": [schema["type"], "null"]} | null


def _name(kind: object, prefix: str) -> str:
    """`Page[Key]` is KeyList; what is its endpoint's own has its name in front."""
    if get_origin(kind) is not None:
        return _name(get_args(kind)[0], prefix) + "List"
    name = getattr(kind, "__name__", str(kind)).lstrip("_")
    return name if name.startswith(prefix) else prefix + name


def _words(kind: object) -> str:
    """The first sentence or so of a type's docstring, on one line."""
    whole = getattr(get_origin(kind) or kind, "__doc__", None)
    made = isinstance(kind, type) and issubclass(kind, msgspec.Struct) and whole == msgspec.Struct.__doc__
    if not whole or made or whole == dict.__doc__:
        return ""
    return " ".join(inspect.cleandoc(whole).split("\n\n")[0].split())
