"""OpenAI's videos: a job that is submitted as a form, asked after, and whose content is fetched by its id."""

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from upstream.client import HttpCall
from upstream.form import FormFile, write_form
from upstream.openai.chat import json_call
from upstream.openai.errors import error_failure, read_error
from upstream.outcome import ProviderMisbehaved
from upstream.redact import without_secrets
from upstream.route import Route
from upstream.submission import JobReport, JobState, bearer, is_id

DATA_URL = re.compile(r"data:(image/(?:png|jpeg|webp));base64,")
_STATES = {
    "queued": JobState.RUNNING,
    "in_progress": JobState.RUNNING,
    "completed": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
}
_REJECTIONS = frozenset({"moderation_blocked", "content_policy_violation", "invalid_request", "invalid_prompt"})


class _Problem(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None


class _Video(msgspec.Struct, frozen=True):
    id: str = ""
    status: str = ""
    progress: float | None = None
    seconds: str | int | None = None
    error: _Problem | None = None


class Videos:
    """The wire."""

    def submit(self, fields: Mapping[str, object], route: Route, *, request_id: str) -> HttpCall:
        """A form when a picture goes along, as the official SDKs send it; else JSON, which OpenAI takes too."""
        sent = {**fields, "model": route.provider_model}
        file = reference_file(sent.get("input_reference"))
        if file is None:
            return json_call(route, "/videos", sent, request_id=request_id)
        plain = [(name, str(value)) for name, value in sent.items() if isinstance(value, str | int | float)]
        body, content_type = write_form(plain, [file])
        headers = {**bearer(route), "content-type": content_type, "x-request-id": request_id}
        return HttpCall(method="POST", url=f"{route.base_url}/videos", headers=headers, body=body)

    def poll(self, job_id: str, route: Route) -> HttpCall:
        """`GET /videos/{id}`."""
        return _call("GET", job_id, route)

    def content(self, job_id: str, route: Route) -> HttpCall | None:
        """`GET /videos/{id}/content`."""
        return _call("GET", job_id, route, "/content")

    def cancel(self, job_id: str, route: Route) -> HttpCall:
        """`DELETE /videos/{id}`: there is no other way to stop one."""
        return _call("DELETE", job_id, route)

    def read(self, body: bytes) -> JobReport:
        """Reads a video object. Raises ProviderMisbehaved."""
        try:
            video = msgspec.json.decode(body, type=_Video, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProviderMisbehaved("the provider's answer is no video") from error
        state = _STATES.get(video.status)
        if state is None or not is_id(video.id):
            raise _no_video(body)
        return JobReport(
            id=video.id,
            state=state,
            progress=min(1.0, max(0.0, (video.progress or 0.0) / 100)),
            problem=without_secrets(video.error.message or video.error.code or "") if video.error else "",
            is_rejected=video.error is not None and video.error.code in _REJECTIONS,
            seconds=_seconds(video.seconds),
        )


def reference_file(reference: object) -> FormFile | None:
    """The picture that a video begins with, when it is a data URL (`{"image_url": "data:…"}`); None for any other."""
    url = reference.get("image_url") if isinstance(reference, Mapping) else None
    found = DATA_URL.match(url) if isinstance(url, str) else None
    if found is None or not isinstance(url, str):
        return None
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except binascii.Error:
        return None
    kind = found[1]
    name = f"reference.{kind.removeprefix('image/')}"
    return FormFile(field="input_reference", name=name, content_type=kind, data=data)


def _call(method: str, job_id: str, route: Route, rest: str = "") -> HttpCall:
    url = f"{route.base_url}/videos/{quote(job_id, safe='')}{rest}"
    return HttpCall(method=method, url=url, headers=bearer(route), body=b"")


def _seconds(value: str | int | None) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else None


def _no_video(body: bytes) -> Exception:
    """An error that came with a status of success, or what is no video."""
    fields = msgspec.json.decode(body)
    if isinstance(fields, dict) and fields.get("error"):
        return error_failure(*read_error(msgspec.Raw(msgspec.json.encode(fields["error"]))))
    return ProviderMisbehaved("the provider's answer is no video")
