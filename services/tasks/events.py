"""What tasks says on the bus and hears there: subjects, the stream and its durable, and the messages themselves.

Work orders wake workers; the database is the truth, so an order that is lost, doubled or late does no harm. Usage goes
where edge's goes too, into billing's stream. What is said of running and ended tasks is core NATS: whoever needs
certainty asks.
"""

import uuid

from chassis.bus import ConsumerSpec
from chassis.streams import StreamSpec
from services.tasks.files.results_store import BUCKET
from services.tasks.jobs import Job, Order, Status
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2

RUN_IMAGE = "tollbridge.tasks.v1.run.image"
RUN_SPEECH = "tollbridge.tasks.v1.run.speech"
RUN_VIDEO = "tollbridge.tasks.v1.run.video"
FINISHED = "tollbridge.tasks.v1.finished"
PROGRESSED = "tollbridge.tasks.v1.progressed"
USAGE_RECORDED = "tollbridge.usage.v1.recorded"
SOURCE = "tasks"
USAGE_TYPE = "tollbridge.usage.v1.UsageBatch"
ORDER_TYPE = "tollbridge.tasks.v1.WorkOrder"

TASKS = StreamSpec(
    name="TASKS",
    subjects=("tollbridge.tasks.v1.run.>",),
    retention="workqueue",
    max_age_s=3 * 24 * 3600,
    max_bytes=256 * 1024 * 1024,
)


def _consumer(durable: str, subject: str) -> ConsumerSpec:
    return ConsumerSpec(stream="TASKS", durable=durable, subject=subject, max_ack_pending=1024, ack_wait_s=30)


RUN_IMAGE_CONSUMER = _consumer("tasks-run-image", RUN_IMAGE)
RUN_SPEECH_CONSUMER = _consumer("tasks-run-speech", RUN_SPEECH)
RUN_VIDEO_CONSUMER = _consumer("tasks-run-video", RUN_VIDEO)
RUN_CONSUMERS = {"image": RUN_IMAGE_CONSUMER, "speech": RUN_SPEECH_CONSUMER, "video": RUN_VIDEO_CONSUMER}
"""By the kind of job."""

# What this service may do on the bus, and no more: `cli/bus_users.py` makes its user of it.
PUBLISHES = (RUN_IMAGE, RUN_SPEECH, RUN_VIDEO, FINISHED, PROGRESSED, USAGE_RECORDED)
LISTENS = (FINISHED, PROGRESSED)
STREAMS = (TASKS,)
CONSUMES = tuple(RUN_CONSUMERS.values())
BUCKETS = (BUCKET,)

STATUS_TO_WIRE = {
    Status.PENDING: pb.TASK_STATUS_PENDING,
    Status.RUNNING: pb.TASK_STATUS_RUNNING,
    Status.SUCCEEDED: pb.TASK_STATUS_SUCCEEDED,
    Status.FAILED: pb.TASK_STATUS_FAILED,
    Status.CANCELLED: pb.TASK_STATUS_CANCELLED,
}


def work_order(order: Order) -> bytes:
    """Wakes a worker for a job."""
    return pb.WorkOrder(task_id=order.id, traceparent=order.traceparent).SerializeToString()


def finished(job: Job) -> bytes:
    """Says that a job has ended."""
    return pb.TaskFinished(event_id=str(uuid.uuid4()), task=to_wire(job)).SerializeToString()


def progressed(job: Job) -> bytes:
    """Says how far a job is."""
    return pb.TaskProgressed(task=to_wire(job)).SerializeToString()


def usage_batch(records: list[bytes]) -> bytes:
    """One message of some serialised usage records."""
    events = [usage_pb2.UsageRecorded.FromString(record) for record in records]
    return usage_pb2.UsageBatch(events=events).SerializeToString()


def to_wire(job: Job) -> pb.Task:
    """A job as others see it."""
    return pb.Task(
        id=job.order.id,
        customer_id=job.order.customer_id,
        kind=job.order.kind,
        model=job.order.model,
        status=STATUS_TO_WIRE[job.status],
        progress=job.progress,
        created_at_us=job.created_at_us,
        started_at_us=job.started_at_us,
        finished_at_us=job.finished_at_us,
        results=[
            pb.Result(
                file_id=file.file_id,
                content_type=file.content_type,
                bytes=file.size_bytes,
                expires_at_us=file.expires_at_us,
            )
            for file in job.results
        ],
        error_code=job.error_code,
        error_message=job.error_message,
        charge_nano_usd=job.charge_nano_usd,
        text_tokens=job.used.text_tokens,
        image_tokens=job.used.image_tokens,
        output_tokens=job.used.output_tokens,
        provider_task_id=job.submission.provider_task_id if job.submission else "",
        version=job.version,
        deleted=job.deleted,
    )
