"""The paid endpoints of the public API that answer at once; long jobs are `routes/tasks.py`."""

from services.edge.bodies.chat_request import parse_chat
from services.edge.bodies.completions_request import parse_completion
from services.edge.bodies.embeddings_request import parse_embeddings
from services.edge.bodies.messages_request import parse_messages
from services.edge.bodies.moderations_request import parse_moderation
from services.edge.bodies.responses_request import parse_responses
from services.edge.bodies.speech_request import is_job, parse_speech
from services.edge.bodies.transcription_request import MAX_FORM_BYTES
from services.edge.bodies.transcription_request import parser as transcription_parser
from services.edge.dialects.messages import messages_voice
from services.edge.openapi import paid
from services.edge.openapi.description import Description
from services.edge.paid.operation import Operation
from services.edge.translate.effort import left_out_of_chat, left_out_of_response
from services.edge.wires.chat import ChatOverAnthropic, ChatOverOpenAI
from services.edge.wires.completions import CompletionsOverOpenAI
from services.edge.wires.embeddings import EmbeddingsOverOpenAI
from services.edge.wires.messages import MessagesOverAnthropic, MessagesOverOpenAI
from services.edge.wires.moderations import ModerationsOverOpenAI
from services.edge.wires.responses import ResponsesOver
from services.edge.wires.speech import SpeechOverOpenAI
from services.edge.wires.transcriptions import TranscriptionsOverOpenAI
from upstream.anthropic.costly import refuse_costly as refuse_costly_messages
from upstream.route import WireProtocol

CHAT = Operation(
    name="chat",
    path="/chat/completions",
    category="chat",
    about=paid.CHAT,
    parse=parse_chat,
    wires={
        WireProtocol.OPENAI: ChatOverOpenAI(),
        WireProtocol.SANDBOX: ChatOverOpenAI(),
        WireProtocol.ANTHROPIC: ChatOverAnthropic(),
    },
    left_out=left_out_of_chat,
)

MESSAGES = Operation(
    name="messages",
    path="/messages",
    category="chat",
    about=paid.MESSAGES,
    parse=parse_messages,
    wires={
        **{protocol: MessagesOverOpenAI() for protocol in CHAT.wires},
        WireProtocol.ANTHROPIC: MessagesOverAnthropic(),
    },
    voice=messages_voice,
    refuse_costly=refuse_costly_messages,
)

RESPONSES = Operation(
    name="responses",
    path="/responses",
    category="chat",
    about=paid.RESPONSES,
    parse=parse_responses,
    wires={protocol: ResponsesOver(chat) for protocol, chat in CHAT.wires.items()},
    left_out=left_out_of_response,
)

COMPLETIONS = Operation(
    name="completions",
    path="/completions",
    category="chat",
    about=paid.COMPLETIONS,
    parse=parse_completion,
    wires={WireProtocol.OPENAI: CompletionsOverOpenAI(), WireProtocol.SANDBOX: CompletionsOverOpenAI()},
)

MODERATIONS = Operation(
    name="moderations",
    path="/moderations",
    category="chat",
    about=paid.MODERATIONS,
    parse=parse_moderation,
    wires={WireProtocol.OPENAI: ModerationsOverOpenAI(), WireProtocol.SANDBOX: ModerationsOverOpenAI()},
)

EMBEDDINGS = Operation(
    name="embeddings",
    path="/embeddings",
    category="embedding",
    about=paid.EMBEDDINGS,
    parse=parse_embeddings,
    wires={
        WireProtocol.OPENAI: EmbeddingsOverOpenAI(),
        WireProtocol.SANDBOX: EmbeddingsOverOpenAI(),
    },
)


SPEECH = Operation(
    name="speech",
    path="/audio/speech",
    category="speech",
    about=paid.SPEECH,
    parse=parse_speech,
    wires={
        WireProtocol.OPENAI: SpeechOverOpenAI(),
        WireProtocol.SANDBOX: SpeechOverOpenAI(),
    },
    is_job=is_job,
)


def _transcriptions(name: str, *, streams: bool, about: Description) -> Operation:
    path = f"/audio/{name}"
    wire = TranscriptionsOverOpenAI(path)
    return Operation(
        name=name,
        path=path,
        category="transcription",
        about=about,
        parse=transcription_parser(streams=streams),
        wires={WireProtocol.OPENAI: wire, WireProtocol.SANDBOX: wire},
        most_bytes=MAX_FORM_BYTES,
    )


TRANSCRIPTIONS = _transcriptions("transcriptions", streams=True, about=paid.TRANSCRIPTIONS)
TRANSLATIONS = _transcriptions("translations", streams=False, about=paid.TRANSLATIONS)

OPERATIONS = (CHAT, MESSAGES, RESPONSES, COMPLETIONS, MODERATIONS, EMBEDDINGS, SPEECH, TRANSCRIPTIONS, TRANSLATIONS)
