"""The errors of a dialect as OpenAPI shows them, learnt from the dialect itself: each code is rendered, and what comes
out is described. So a new dialect, or a changed one, is documented by being there.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.dialects import Dialect
from services.edge.openapi.schemas import Schema

Json = dict[str, Any]
_ENUMERATED = frozenset({"code", "reason", "type"})
_RETRIED = (429, 503)


def error_responses(dialect: Dialect, *, schema: str) -> dict[int, Json]:
    """The response of each status. `schema` refers to the component that `error_schema` is shown as."""
    return {status: _response(dialect, status, codes, schema) for status, codes in by_status(dialect, Code).items()}


def by_status(dialect: Dialect, codes: Iterable[Code]) -> dict[int, list[Code]]:
    """The codes under the statuses that the dialect gives them."""
    found: dict[int, list[Code]] = {}
    for code in sorted(codes, key=lambda code: (dialect.statuses[code], code)):
        found.setdefault(dialect.statuses[code], []).append(code)
    return found


def said(status: int, codes: Iterable[Code]) -> str:
    """A status and its codes in a line."""
    return f"{HTTPStatus(status).phrase}: {', '.join(f'`{code.value}`' for code in codes)}"


def error_schema(dialect: Dialect) -> Schema:
    """What every error body of the dialect is like."""
    shapes: dict[tuple[str, ...], list[Any]] = {}
    for code in dialect.statuses:
        for sample in _samples(dialect, code):
            shapes.setdefault(tuple(sorted(sample)), []).append(sample)
    choices = [_learnt(samples) for _, samples in sorted(shapes.items())]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _response(dialect: Dialect, status: int, codes: list[Code], schema: str) -> Json:
    examples = {code.value: {"value": next(iter(_samples(dialect, code)))} for code in codes}
    headers: Json = request_id_headers(dialect)
    if status in _RETRIED:
        headers["Retry-After"] = {"required": True, "schema": {"type": "integer", "minimum": 1, "maximum": 60}}
    if any(code in (Code.INSUFFICIENT_CREDITS, Code.SPEND_CAP_REACHED) for code in codes):
        headers["x-should-retry"] = {"schema": {"type": "string", "enum": ["false"]}}
    return {
        "description": said(status, codes),
        "headers": headers,
        "content": {"application/json": {"schema": {"$ref": schema}, "examples": examples}},
    }


def request_id_headers(dialect: Dialect) -> Json:
    """The headers that every answer has its request's id in."""
    about = "The id of this request: its receipt is `/requests/{id}`, and support can find it by it."
    shown: Json = {"description": about, "required": True, "schema": {"type": "string"}}
    return {name.decode(): dict(shown) for name in dialect.request_id_headers}


def _samples(dialect: Dialect, code: Code) -> Iterable[Any]:
    """Bodies of the code's errors: with and without a field to blame, with and without what is left."""
    details: list[dict[str, str]] = [{}, {"balance_nano_usd": "1500000000", "affordable_nano_usd": "0"}]
    details += [{"param": name} for name in ("temperature", *dialect.required)]
    for each in details:
        error = TollbridgeError(code, "What went wrong, in a sentence.", details=each)
        for request_id in ("0198c0de-0000-7000-8000-000000000000", ""):
            view = dialect.view(error, request_id=request_id)
            yield msgspec.json.decode(msgspec.json.encode(dialect.error_body(view)))


def _learnt(samples: list[Any]) -> Schema:
    """What the samples have in common."""
    kinds = {_kind(each) for each in samples}
    if kinds == {"object"}:
        names = sorted({name for each in samples for name in each})
        fields = {name: _field(name, [each[name] for each in samples if name in each]) for name in names}
        required = [name for name in names if all(name in each for each in samples)]
        return {"type": "object", "properties": fields, "required": required}
    return {"type": kinds.pop() if len(kinds) == 1 else sorted(kinds)}


def _field(name: str, values: list[Any]) -> Schema:
    if name in _ENUMERATED and all(isinstance(each, (str, int)) for each in values):
        return _learnt(values) | {"enum": sorted(set(values))}
    return _learnt(values)


def _kind(value: object) -> str:
    kinds = {dict: "object", str: "string", int: "integer", float: "number", type(None): "null", bool: "boolean"}
    return kinds[type(value)]
