"""Who makes what over which protocol: the makers of images, speech and videos, each with what it counts."""

from collections.abc import Mapping

from pricing.tokens import Units
from services.tasks.making.image_maker import ImageMaker, sent
from services.tasks.making.image_order import ImageOrder
from services.tasks.making.kind import Maker
from services.tasks.making.speech_maker import SpeechMaker
from services.tasks.making.speech_order import SpeechOrder
from services.tasks.making.submission_maker import SubmissionMaker
from services.tasks.making.video_order import VideoOrder
from upstream.openai.videos import Videos
from upstream.predictions.jobs import Predictions
from upstream.route import WireProtocol
from upstream.submission import JobReport


def images() -> Mapping[WireProtocol, Maker[ImageOrder]]:
    """By protocol. Of the pictures of a job more than were ordered are neither kept nor charged."""
    at_once = ImageMaker()
    return {
        WireProtocol.OPENAI: at_once,
        WireProtocol.SANDBOX: at_once,
        WireProtocol.PREDICTIONS: SubmissionMaker(
            wire=Predictions(), fields=lambda wanted: sent(wanted.fields), units=_images, most_files=_ordered
        ),
    }


def speeches() -> Mapping[WireProtocol, Maker[SpeechOrder]]:
    """By protocol."""
    return {WireProtocol.OPENAI: SpeechMaker(), WireProtocol.SANDBOX: SpeechMaker()}


def videos() -> Mapping[WireProtocol, Maker[VideoOrder]]:
    """By protocol."""
    at_openai = SubmissionMaker(wire=Videos(), fields=_video_fields, units=_seconds, most_files=_one)
    return {
        WireProtocol.OPENAI: at_openai,
        WireProtocol.SANDBOX: at_openai,
        WireProtocol.PREDICTIONS: SubmissionMaker(
            wire=Predictions(), fields=_video_fields, units=_seconds, most_files=_one
        ),
    }


def _images(_wanted: ImageOrder, _report: JobReport, files: int) -> Units:
    return Units(requests=1, images=files)


def _ordered(wanted: ImageOrder) -> int:
    return wanted.images


def _video_fields(wanted: VideoOrder) -> Mapping[str, object]:
    return wanted.fields


def _seconds(wanted: VideoOrder, report: JobReport, _files: int) -> Units:
    """What was ordered, or less where the provider says that it made less."""
    seconds = wanted.seconds if report.seconds is None else min(report.seconds, wanted.seconds)
    return Units(requests=1, milliseconds=seconds * 1000)


def _one(_wanted: VideoOrder) -> int:
    return 1
