"""The protocol `predictions`: any image or video model as a job with inputs and outputs, as Replicate has it.

`POST /models/{owner}/{name}/predictions` (or `/predictions` with a `version`) begins one, `GET /predictions/{id}` asks
after it, `POST /predictions/{id}/cancel` ends it; what it made are links in `output`. The client's fields become the
job's `input` under the names that most models have; fields that we don't know travel on as they are.
"""

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from upstream.client import HttpCall
from upstream.openai.chat import json_call
from upstream.outcome import ProviderMisbehaved
from upstream.pictures import WrongWish, size_of
from upstream.redact import without_secrets
from upstream.route import Route
from upstream.submission import JobReport, JobState, bearer, is_id

MAX_LINKS = 16
_STATES = {
    "starting": JobState.RUNNING,
    "processing": JobState.RUNNING,
    "succeeded": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "canceled": JobState.FAILED,
    "aborted": JobState.FAILED,
}
_NOT_INPUT = frozenset({"model", "n", "size", "seconds", "input_reference", "response_format", "user"})


class _Prediction(msgspec.Struct, frozen=True):
    id: str = ""
    status: str = ""
    output: object = None
    error: object = None
    progress: float | None = None


class Predictions:
    """The wire."""

    def submit(self, fields: Mapping[str, object], route: Route, *, request_id: str) -> HttpCall:
        """`owner/name` is a model, all else the id of a version."""
        model, inputs = route.provider_model, input_of(fields)
        if "/" in model and ":" not in model:
            path = f"/models/{quote(model, safe='/')}/predictions"
            return json_call(route, path, {"input": inputs}, request_id=request_id)
        body = {"version": model.rpartition(":")[2], "input": inputs}
        return json_call(route, "/predictions", body, request_id=request_id)

    def poll(self, job_id: str, route: Route) -> HttpCall:
        """`GET /predictions/{id}`."""
        return _call("GET", job_id, route)

    def content(self, job_id: str, route: Route) -> HttpCall | None:
        """None: reports have links."""
        return None

    def cancel(self, job_id: str, route: Route) -> HttpCall:
        """`POST /predictions/{id}/cancel`."""
        return _call("POST", job_id, route, "/cancel")

    def read(self, body: bytes) -> JobReport:
        """Reads a prediction. Raises ProviderMisbehaved."""
        try:
            found = msgspec.json.decode(body, type=_Prediction)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProviderMisbehaved("the provider's answer is no prediction") from error
        state = _STATES.get(found.status)
        if state is None or not is_id(found.id):
            raise ProviderMisbehaved("the provider's answer is no prediction")
        links = _links(found.output) if state is JobState.SUCCEEDED else ()
        if state is JobState.SUCCEEDED and not links:
            return JobReport(id=found.id, state=JobState.FAILED, problem="the provider's job made nothing")
        return JobReport(
            id=found.id,
            state=state,
            progress=min(1.0, max(0.0, found.progress or 0.0)),
            links=links,
            problem=without_secrets(found.error) if isinstance(found.error, str) else "",
        )


def input_of(fields: Mapping[str, object]) -> dict[str, object]:
    """The inputs of a model for a client's fields."""
    inputs = {name: value for name, value in fields.items() if name not in _NOT_INPUT}
    count, size, seconds = fields.get("n"), fields.get("size"), fields.get("seconds")
    if isinstance(count, int) and count > 1:
        inputs["num_outputs"] = count
    if isinstance(size, str) and size != "auto":
        try:
            inputs["width"], inputs["height"] = size_of(size)
        except WrongWish:
            inputs["size"] = size
    if isinstance(seconds, str | int) and str(seconds).isdigit():
        inputs["duration"] = int(seconds)
    reference = fields.get("input_reference")
    if isinstance(reference, Mapping) and isinstance(reference.get("image_url"), str):
        inputs["image"] = reference["image_url"]
    return inputs


def _links(output: object) -> tuple[str, ...]:
    found = output if isinstance(output, list) else [output]
    return tuple(each for each in found if isinstance(each, str) and each)[:MAX_LINKS]


def _call(method: str, job_id: str, route: Route, rest: str = "") -> HttpCall:
    url = f"{route.base_url}/predictions/{quote(job_id, safe='')}{rest}"
    return HttpCall(method=method, url=url, headers=bearer(route), body=b"")
