"""`/files`: what tasks made, for its owner, and for whoever has a link that is good for an hour.

The content type is what the worker found in the bytes, one of a closed list; nothing is left for a browser to guess,
and nothing in a file can act in our name.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Literal, TypedDict

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.http.json_http import Identify, answer, context
from services.edge.openapi.description import Description, Media, Parameter, described
from services.edge.task_desk import TaskDesk
from tollbridge.tasks.v1 import tasks_pb2

_UNKNOWN = "application/octet-stream"
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
GET_FILE = Description(
    name="getFile",
    tag="Images and tasks",
    summary="A task's result",
    about="Its owner's key opens it for as long as it is kept; the links in answers do without one, for an hour.",
    media=(Media(content_type="*/*", shape=bytes),),
    parameters=_LINK,
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
            pieces = desk.pieces(file_id, expires_s=_expires_s(request), signature=signature)
        else:
            caller = await identify(request)
            pieces = desk.pieces(file_id, customer_id=caller.customer_id)
        return await file_answer(pieces, request_id=context(request).request_id)

    @router.delete("/files/{file_id}", openapi_extra=described(DELETE_FILE))
    async def delete_file(request: Request, file_id: str) -> Response:
        caller = await identify(request)
        await desk.delete(caller, file_id=file_id)
        gone: DeletedFile = {"id": file_id, "object": "file", "deleted": True}
        return answer(gone, request_id=context(request).request_id)

    return router


async def file_answer(pieces: AsyncIterator[tasks_pb2.GetResultResponse], *, request_id: str) -> Response:
    """A file's bytes, streamed. Raises what the first of them fails with."""
    first = await anext(pieces)
    headers = {
        "x-request-id": request_id,
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "cache-control": "private, max-age=3600",
    }
    if first.content_type == _UNKNOWN:
        headers["content-disposition"] = "attachment"

    async def relay() -> AsyncIterator[bytes]:
        yield first.data
        async for piece in pieces:
            yield piece.data

    return StreamingResponse(relay(), media_type=first.content_type, headers=headers)


def _expires_s(request: Request) -> int:
    text = request.query_params.get("expires", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise TollbridgeError(Code.NOT_FOUND, "This link is not valid, or not any more.")
    return int(text)
