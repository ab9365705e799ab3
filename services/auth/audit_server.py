"""The gRPC face of the audit log: convert, one call, convert back."""

import json

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid_of
from chassis.rpc import CallContext, Handler
from services.auth.audit import AuditLog
from services.auth.audit_store import Action, Outcome, Recorded, Wanted
from tollbridge.auth.v1 import auth_pb2 as pb

MOST = {"actor": 100, "address": 100, "method": 20, "path": 500, "parameters": 8000, "code": 100}
"""Characters that each field may have, as the tables say."""
_MUST_BE = frozenset({"actor", "method", "path"})


class AuditServer:
    """The handlers."""

    def __init__(self, *, log: AuditLog) -> None:
        self._log = log

    def handlers(self, callers: frozenset[str]) -> dict[str, Handler]:
        """By method's name."""
        return {
            "RecordAction": Handler(run=self.record_action, callers=callers),
            "RecordOutcome": Handler(run=self.record_outcome, callers=callers),
            "ListActions": Handler(run=self.list_actions, callers=callers),
        }

    async def record_action(self, request: pb.RecordActionRequest, _: CallContext) -> pb.RecordActionResponse:
        action = request.action
        await self._log.begin(
            Action(
                id=uuid_of(action.id, "id"),
                actor=_text(action.actor, "actor"),
                address=_text(action.address, "address"),
                method=_text(action.method, "method"),
                path=_text(action.path, "path"),
                parameters=_object(action.parameters),
            )
        )
        return pb.RecordActionResponse()

    async def record_outcome(self, request: pb.RecordOutcomeRequest, _: CallContext) -> pb.RecordOutcomeResponse:
        outcome = request.outcome
        if outcome.status > 999:
            raise _invalid("status", "is at most 999")
        await self._log.end(
            uuid_of(request.action_id, "action_id"), Outcome(status=outcome.status, code=_text(outcome.code, "code"))
        )
        return pb.RecordOutcomeResponse()

    async def list_actions(self, request: pb.ListActionsRequest, _: CallContext) -> pb.ListActionsResponse:
        if "\0" in request.actor + request.method + request.path:
            raise _invalid("path", "has no NUL")
        found, has_more = await self._log.page(
            Wanted(
                after=uuid_of(request.after, "after") if request.after else None,
                limit=request.limit,
                actor=request.actor,
                method=request.method,
                path=request.path,
                from_us=request.from_us,
                to_us=request.to_us,
            )
        )
        return pb.ListActionsResponse(actions=map(_recorded, found), has_more=has_more)


def _recorded(found: Recorded) -> pb.RecordedAction:
    action, outcome = found.action, found.outcome
    return pb.RecordedAction(
        action=pb.AdminAction(
            id=str(action.id),
            at_us=action.at_us,
            actor=action.actor,
            address=action.address,
            method=action.method,
            path=action.path,
            parameters=action.parameters,
        ),
        outcome=None
        if outcome is None
        else pb.AdminOutcome(at_us=outcome.at_us, status=outcome.status, code=outcome.code),
    )


def _text(text: str, param: str) -> str:
    if "\0" in text or len(text) > MOST[param] or (param in _MUST_BE and not text):
        raise _invalid(param, f"is at most {MOST[param]} characters without NUL")
    return text


def _object(text: str) -> str:
    try:
        is_object = isinstance(json.loads(text or "{}"), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise _invalid("parameters", "is a JSON object")
    return _text(text or "{}", "parameters")


def _invalid(param: str, message: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{param} {message}.", details={"param": param})
