"""`/files`: what tasks made, for its owner, and for whoever has a link that is good for an hour.

The content type is what the worker found in the bytes, one of a closed list; nothing is left for a browser to guess,
and nothing in a file can act in our name.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypedDict

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.http.json_http import Identify, RequestContext, answer, context
from services.edge.http.ranges import asked_part, is_known
from services.edge.openapi.description import Description, Media, Parameter, described
from services.edge.task_desk import TaskDesk
from services.edge.task_files import SLICE_BYTES, TaskFile

_UNKNOWN = "application/octet-stream"
_CACHE = {"cache-control": "private, max-age=3600"}
_KEY_HEADERS = ("authorization", "x-api-key")


class DeletedFile(TypedDict):
    """It is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


_LINK = (
    Parameter(
        name="expires",
        about="Of a link: until when it is good, in seconds since the epoch. Not needed with a key.",
        shape=Annotated[int, Meta(ge=0)],
    ),
    Parameter(name="signature", about="Of a link: its proof."),
)
RANGE = Parameter(name="Range", about="One range, `bytes=0-1023` say; several bring the whole.", is_header=True)
IF_RANGE = Parameter(
    name="If-Range", about="The `ETag` that the rest is of; with another comes the whole.", is_header=True
)
PARTS = ((304, "It is what `If-None-Match` names"), (416, "`Range` is beyond its end"))
GET_FILE = Description(
    name="getFile",
    tag="Images and tasks",
    summary="A task's result",
    about="Its owner's key opens it for as long as it is kept; the links in answers do without one, for an hour.",
    media=(Media(content_type="*/*", shape=bytes),),
    parameters=(*_LINK, RANGE, IF_RANGE),
    statuses=(206,),
    others=PARTS,
    refuses=frozenset({Code.NOT_FOUND}),
)
DELETE_FILE = Description(
    name="deleteFile",
    tag="Images and tasks",
    summary="Removes a result before its time",
    answer=DeletedFile,
    refuses=frozenset({Code.NOT_FOUND}),
)


def routes(*, desk: TaskDesk, identify: Identify) -> APIRouter:
    """The routes; another customer's file is not found."""
    router = APIRouter()

    @router.get("/files/{file_id}/content", openapi_extra=described(GET_FILE))
    async def get_file(request: Request, file_id: str) -> Response:
        signature = request.query_params.get("signature", "")
        if signature and not any(request.headers.get(name) for name in _KEY_HEADERS):
            read = functools.partial(desk.file, file_id, expires_s=_expires_s(request), signature=signature)
        else:
            caller = await identify(request)
            read = functools.partial(desk.file, file_id, customer_id=caller.customer_id)
        return await sent(request, file_id, read)

    @router.delete("/files/{file_id}", openapi_extra=described(DELETE_FILE))
    async def delete_file(request: Request, file_id: str) -> Response:
        caller = await identify(request)
        await desk.delete(caller, file_id=file_id)
        gone: DeletedFile = {"id": file_id, "object": "file", "deleted": True}
        return answer(gone, request_id=context(request).request_id)

    return router


async def sent(request: Request, file_id: str, open_file: Callable[..., Awaitable[TaskFile]]) -> Response:
    """A file, or the part of it that is asked for. Raises what opening it fails with."""
    found, tag = context(request), f'"{file_id}"'
    if is_known(request.headers, tag=tag):
        await open_file(length=1)
        return Response(status_code=304, headers={"x-request-id": found.request_id, "etag": tag, **_CACHE})
    if found.is_head:
        return file_answer(await open_file(length=1), request_id=found.request_id, is_head=True)
    part = asked_part(request.headers, tag=tag)
    if part is None:
        file = await open_file()
    else:
        file = await open_file(offset=part.offset, length=min(SLICE_BYTES, part.most_bytes or SLICE_BYTES))
    place = part.within(file.size) if part is not None else None
    if part is not None and place is None:
        return _beyond(file, found)
    return file_answer(file, request_id=found.request_id, place=place)


def file_answer(
    file: TaskFile, *, request_id: str, place: tuple[int, int] | None = None, is_head: bool = False
) -> Response:
    """A file's bytes, streamed; only those from a start to before an end with `place`."""
    start, end = place or (0, file.size)
    headers = {
        "x-request-id": request_id,
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "content-length": str(end - start),
        "accept-ranges": "bytes",
        "etag": f'"{file.file_id}"',
        **_CACHE,
    }
    if file.content_type == _UNKNOWN:
        headers["content-disposition"] = "attachment"
    if place is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{file.size}"
    if is_head:
        return Response(headers=headers, media_type=file.content_type)
    status = 206 if place is not None else 200
    pieces = file.pieces(start, end)
    return StreamingResponse(pieces, status_code=status, media_type=file.content_type, headers=headers)


def _beyond(file: TaskFile, found: RequestContext) -> Response:
    error = TollbridgeError(Code.INVALID_REQUEST, f"The file has {file.size} bytes, and none of those asked for.")
    rendered = found.surface.dialect.render_error(error, request_id=found.request_id)
    response = Response(content=rendered.body, status_code=416)
    response.raw_headers = [*rendered.headers, (b"content-range", b"bytes */%d" % file.size)]
    return response


def _expires_s(request: Request) -> int:
    text = request.query_params.get("expires", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise TollbridgeError(Code.NOT_FOUND, "This link is not valid, or not any more.")
    return int(text)
