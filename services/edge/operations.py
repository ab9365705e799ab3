"""The paid endpoints of the public API that answer at once; long jobs are `routes/tasks.py`."""

from services.edge.chat_request import parse_chat
from services.edge.embeddings_request import parse_embeddings
from services.edge.operation import Operation
from services.edge.responses_request import parse_responses
from services.edge.wires.chat import ChatOverAnthropic, ChatOverOpenAI
from services.edge.wires.embeddings import EmbeddingsOverOpenAI
from services.edge.wires.responses import ResponsesOver
from upstream.route import WireProtocol

CHAT = Operation(
    name="chat",
    path="/chat/completions",
    category="chat",
    parse=parse_chat,
    wires={
        WireProtocol.OPENAI: ChatOverOpenAI(),
        WireProtocol.SANDBOX: ChatOverOpenAI(),
        WireProtocol.ANTHROPIC: ChatOverAnthropic(),
    },
)

RESPONSES = Operation(
    name="responses",
    path="/responses",
    category="chat",
    parse=parse_responses,
    wires={protocol: ResponsesOver(chat) for protocol, chat in CHAT.wires.items()},
)

EMBEDDINGS = Operation(
    name="embeddings",
    path="/embeddings",
    category="embedding",
    parse=parse_embeddings,
    wires={
        WireProtocol.OPENAI: EmbeddingsOverOpenAI(),
        WireProtocol.SANDBOX: EmbeddingsOverOpenAI(),
    },
)

OPERATIONS = (CHAT, RESPONSES, EMBEDDINGS)
