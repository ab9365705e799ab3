"""`GET /usage`: what was used and paid in a range of time, by model, key or day; CSV for `Accept: text/csv`, else JSON.

`from` and `to` are times or days of UTC; a day as `to` is included. Without them: the last 30 days until now.
"""

import csv
import datetime
import io
import re
import time
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.http.json_http import Identify, answer, context, microseconds, page_limit
from services.edge.openapi.description import (
    LIMIT,
    USD,
    Description,
    Media,
    Page,
    Parameter,
    described,
)
from tollbridge.billing.v1 import statements_pb2 as pb

TIMEOUT_S = 5.0
DEFAULT_DAYS = 30
MAX_CSV_PAGES = 50
CSV_PAGE = 1000
_DAY_US = 86_400_000_000
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

GROUPS = {
    "model": (pb.USAGE_GROUP_MODEL, "model"),
    "key": (pb.USAGE_GROUP_KEY, "key_id"),
    "day": (pb.USAGE_GROUP_DAY, "day"),
}
"""By `group_by`: what is summed, and the field that names the group."""
OPERATORS_GROUPS = {**GROUPS, "customer": (pb.USAGE_GROUP_CUSTOMER, "customer_id")}
COLUMNS = ("requests", "prompt_tokens", "completion_tokens", "charge")


class UsageSum(TypedDict):
    """A sum; the group that was asked for names it, null where there is none."""

    model: NotRequired[str | None]
    key_id: NotRequired[str | None]
    day: NotRequired[str | None]
    customer_id: NotRequired[str | None]
    requests: int
    prompt_tokens: int
    completion_tokens: int
    charge: USD


PARAMETERS = (
    Parameter(name="from", about="A time or a day of UTC; 30 days before `to` without it."),
    Parameter(name="to", about="A time, or a day of UTC, which is included; now without it."),
    Parameter(name="key_id", about="Of this key alone."),
    Parameter(name="model", about="Of this model alone."),
    LIMIT,
    Parameter(name="after", about="`next` of the page before, which is the name of a group."),
)
USAGE = Description(
    name="getUsage",
    tag="Account",
    summary="What was used and paid, by model, key or day",
    about="CSV for `Accept: text/csv`.",
    answer=Page[UsageSum],
    media=(Media(content_type="text/csv"),),
    parameters=(
        Parameter(name="group_by", about="What is summed: model without it.", shape=Literal["model", "key", "day"]),
        *PARAMETERS,
    ),
)


def routes(*, statements: PipeClient, identify: Identify) -> APIRouter:
    """The route; a customer sees their own usage only."""
    router = APIRouter()

    @router.get("/usage", openapi_extra=described(USAGE))
    async def get_usage(request: Request) -> Response:
        caller = await identify(request)
        return await report(statements, customer_id=caller.customer_id, request=request)

    return router


async def report(
    statements: PipeClient,
    *,
    customer_id: str,
    request: Request,
    groups: Mapping[str, tuple[pb.UsageGroup.ValueType, str]] = GROUPS,
) -> Response:
    """The answer about one customer or (`customer_id` empty) everybody. Raises INVALID_REQUEST."""
    asked, column = _question(request, groups)
    asked.customer_id = customer_id
    if not _wants_csv(request):
        asked.limit = page_limit(request)
        reply = await _ask(statements, asked)
        rows = [row(each, column) for each in reply.sums]
        following = reply.sums[-1].group if reply.has_more else None
        listed = {"object": "list", "data": rows, "has_more": reply.has_more, "next": following}
        return answer(listed, request_id=context(request).request_id)
    return Response(
        content=csv_text([row(each, column) for each in await _all(statements, asked)], column),
        media_type="text/csv",
        headers={
            "x-request-id": context(request).request_id,
            "content-disposition": 'attachment; filename="usage.csv"',
        },
    )


def row(found: pb.UsageSum, column: str) -> dict[str, object]:
    """One sum as it is shown."""
    return {
        column: found.group or None,
        "requests": found.requests,
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
        "charge": usd_text(found.charge_nano_usd),
    }


def csv_text(rows: Sequence[Mapping[str, object]], column: str) -> str:
    """The rows below their names. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow((column, *COLUMNS))
    writer.writerows((_cell(str(each[column] or "")), *(each[name] for name in COLUMNS)) for each in rows)
    return out.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") or text[:1] in tuple("\t\r\n") else text


def _question(
    request: Request, groups: Mapping[str, tuple[pb.UsageGroup.ValueType, str]]
) -> tuple[pb.SumUsageRequest, str]:
    given = request.query_params
    group = groups.get(given.get("group_by", "model"))
    if group is None:
        raise TollbridgeError(
            Code.INVALID_REQUEST, f"group_by must be one of {', '.join(groups)}.", details={"param": "group_by"}
        )
    until_us = _moment(given["to"], param="to", whole_day=True) if given.get("to") else time.time_ns() // 1000
    first = given.get("from")
    from_us = _moment(first, param="from", whole_day=False) if first else max(until_us - DEFAULT_DAYS * _DAY_US, 0)
    asked = pb.SumUsageRequest(
        key_id=given.get("key_id", ""),
        model=given.get("model", ""),
        from_us=from_us,
        until_us=until_us,
        group_by=group[0],
    )
    if "after" in given:
        asked.after = given["after"]
    return asked, group[1]


def _moment(text: str, *, param: str, whole_day: bool) -> int:
    """A time, or the beginning (`whole_day`: the end) of a day, as microseconds since the epoch."""
    if not _DAY.fullmatch(text):
        return microseconds(text, param=param)
    try:
        day = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    except ValueError:
        message = f"{param} must be a day such as 2027-01-31."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": param}) from None
    return int(day.timestamp()) * 1_000_000 + (_DAY_US if whole_day else 0)


def _wants_csv(request: Request) -> bool:
    """Whether CSV comes before JSON in Accept; quality values are not weighed."""
    kinds = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    named = [kind for kind in kinds if kind in ("text/csv", "application/json")]
    return named[:1] == ["text/csv"]


async def _all(statements: PipeClient, asked: pb.SumUsageRequest) -> list[pb.UsageSum]:
    """Every group: a file has no pages. Raises INVALID_REQUEST when there are too many."""
    found: list[pb.UsageSum] = []
    asked.limit = CSV_PAGE
    for _ in range(MAX_CSV_PAGES):
        reply = await _ask(statements, asked)
        found += reply.sums
        if not reply.has_more:
            return found
        asked.after = found[-1].group
    raise TollbridgeError(Code.INVALID_REQUEST, "This is too much for one file; ask for a shorter time.")


async def _ask(statements: PipeClient, asked: pb.SumUsageRequest) -> pb.SumUsageResponse:
    return await statements.call("SumUsage", asked, pb.SumUsageResponse, timeout_s=TIMEOUT_S)
