"""Examples fit the schemas that SDKs write, and no schema makes a large one."""

import enum
import json
from datetime import datetime
from typing import Annotated, Any, Literal

import pydantic
import pytest

from upstream.sandbox.schema_example import MAX_VALUES, example_of


class Colour(enum.Enum):
    RED = "red"


class Leaf(pydantic.BaseModel):
    kind: Literal["leaf"]
    name: Annotated[str, pydantic.Field(min_length=10)]


class Tree(pydantic.BaseModel):
    leaves: Annotated[list[Leaf], pydantic.Field(min_length=2)]
    colour: Colour
    height: Annotated[float, pydantic.Field(gt=3)]
    age: Annotated[int, pydantic.Field(ge=4)] | None
    planted: datetime
    tall: bool
    best: Leaf | str


def test_fits_what_pydantic_describes() -> None:
    """References, lists, enums, unions, bounds and formats."""
    tree = Tree.model_validate(example_of(Tree.model_json_schema()))
    assert (len(tree.leaves), tree.age, tree.colour) == (2, 4, Colour.RED)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefghij"}},
        {"type": "array", "minItems": 10**9, "items": {"$ref": "#"}},
        {"type": "string", "minLength": 10**12},
    ],
)
def test_no_schema_makes_a_large_example(schema: dict[str, Any]) -> None:
    """Nor a circle an endless one."""
    assert len(json.dumps(example_of(schema))) < 100 * MAX_VALUES


@pytest.mark.parametrize("schema", [None, 7, [], {}, {"type": ["null"]}, {"$ref": "#/nowhere"}, {"enum": []}])
def test_what_is_no_schema_is_null(schema: object) -> None:
    """Never an error."""
    assert example_of(schema) is None
