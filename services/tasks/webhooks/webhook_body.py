"""The body of a task's webhook: what became of it, in the words of `GET /tasks/{id}`. Pure.

Its links are as good as those there, from the job's end on: a webhook that comes late has links that only the owner's
key opens.
"""

import datetime

import msgspec

from pricing.prices import usd_text
from services.tasks.files import links
from services.tasks.jobs import Job, ResultFile


def of_end(job: Job, *, link_secret: bytes) -> bytes:
    """JSON as Standard Webhooks has it: `task.succeeded`, `task.failed` or `task.cancelled`."""
    return msgspec.json.encode(
        {
            "type": f"task.{job.status.value}",
            "timestamp": _time(job.finished_at_us),
            "data": _task(job, link_secret),
        }
    )


def _task(job: Job, link_secret: bytes) -> dict[str, object]:
    order = job.order
    files = [
        {
            "url": _link(job, file, link_secret) if order.files_url else None,
            "content_type": file.content_type,
            "bytes": file.size_bytes,
        }
        for file in job.results
    ]
    return {
        "id": order.id,
        "object": "task",
        "kind": order.kind,
        "model": order.model,
        "status": job.status.value,
        "progress": job.progress,
        "created_at": _time(job.created_at_us),
        "started_at": _time(job.started_at_us),
        "finished_at": _time(job.finished_at_us),
        "result": {"data": files} if files else None,
        "error": {"code": job.error_code, "message": job.error_message} if job.error_code else None,
        "cost": usd_text(job.charge_nano_usd),
    }


def _link(job: Job, file: ResultFile, secret: bytes) -> str:
    expires_s, signature = links.sign(secret, file.file_id, now_s=job.finished_at_us / 1_000_000)
    return f"{job.order.files_url}/{file.file_id}/content?expires={expires_s}&signature={signature}"


def _time(microseconds: int) -> str | None:
    if not microseconds:
        return None
    moment = datetime.datetime.fromtimestamp(microseconds // 1_000_000, tz=datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 1_000_000:06d}Z"
