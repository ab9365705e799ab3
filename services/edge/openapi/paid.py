"""What the paid endpoints that answer at once say of themselves; `operations.py` names them."""

from services.edge.bodies.chat_request import ChatBody
from services.edge.bodies.completions_request import CompletionsBody
from services.edge.bodies.embeddings_request import EmbeddingsBody
from services.edge.bodies.messages_request import MessagesBody, Prompt
from services.edge.bodies.moderations_request import ModerationsBody
from services.edge.bodies.responses_fields import ResponsesBody
from services.edge.bodies.speech_request import SpeechBody
from services.edge.bodies.transcription_request import TranscriptionForm, TranslationForm
from services.edge.openapi import answers
from services.edge.openapi.description import (
    CLAMPED,
    DROPPED,
    DROPPED_FIELDS,
    IDEMPOTENCY_KEY,
    MAX_COST,
    PAID,
    REPLAYED,
    Description,
    Media,
)
from services.edge.routes.task_shapes import PREFER
from upstream.sound_encoder import CONTENT_TYPES

TEXT = "Text"
SOUND = "Sound"
STREAM = Media(content_type="text/event-stream", shape=answers.StreamEvent)
_BOTH = (IDEMPOTENCY_KEY, MAX_COST)
_HEADERS = (REPLAYED, CLAMPED)
_HI = [{"role": "user", "content": "Say hello."}]

CHAT = Description(
    name="createChatCompletion",
    tag=TEXT,
    summary="A chat completion, whole or streamed",
    about="As OpenAI's, for every chat model. Fields that are not named here travel to the provider as they are.",
    prefix="Chat",
    body=ChatBody,
    example={"model": "MODEL", "messages": _HI},
    answer=answers.ChatCompletion,
    media=(STREAM,),
    parameters=_BOTH,
    headers=(*_HEADERS, DROPPED_FIELDS),
    refuses=PAID,
)
MESSAGES = Description(
    name="createMessage",
    tag=TEXT,
    summary="A message, whole or streamed",
    about="As Anthropic's, for every chat model, with Anthropic's events and errors.",
    prefix="Messages",
    body=MessagesBody,
    example={"model": "MODEL", "max_tokens": 256, "messages": _HI},
    answer=answers.Message,
    media=(STREAM,),
    parameters=_BOTH,
    headers=_HEADERS,
    refuses=PAID,
)
COUNT_TOKENS = Description(
    name="countTokens",
    tag=TEXT,
    summary="How long a prompt is",
    about="As Anthropic's. Costs nothing.",
    prefix="CountTokens",
    body=Prompt,
    example={"model": "MODEL", "messages": _HI},
    answer=answers.TokenCount,
    refuses=PAID,
)
RESPONSES = Description(
    name="createResponse",
    tag=TEXT,
    summary="A response, whole or streamed",
    about="As OpenAI's, for every chat model. Nothing is stored: send the whole conversation in `input`.",
    prefix="Responses",
    body=ResponsesBody,
    example={"model": "MODEL", "input": "Say hello."},
    answer=answers.ResponseObject,
    media=(STREAM,),
    parameters=_BOTH,
    headers=(*_HEADERS, DROPPED, DROPPED_FIELDS),
    refuses=PAID,
)
COMPLETIONS = Description(
    name="createCompletion",
    tag=TEXT,
    summary="A legacy completion, whole or streamed",
    about="As OpenAI's, for chat models whose provider offers it.",
    prefix="Completions",
    body=CompletionsBody,
    example={"model": "MODEL", "prompt": "Once upon a time", "max_tokens": 16},
    answer=answers.Completion,
    media=(STREAM,),
    parameters=_BOTH,
    headers=_HEADERS,
    refuses=PAID,
)
MODERATIONS = Description(
    name="createModeration",
    tag=TEXT,
    summary="Whether texts and images are harmful",
    about="As OpenAI's, for models whose provider offers it.",
    prefix="Moderations",
    body=ModerationsBody,
    example={"model": "MODEL", "input": "Hello."},
    answer=answers.Moderation,
    parameters=_BOTH,
    headers=_HEADERS,
    refuses=PAID,
)
EMBEDDINGS = Description(
    name="createEmbedding",
    tag=TEXT,
    summary="Embeddings of texts",
    prefix="Embeddings",
    body=EmbeddingsBody,
    example={"model": "MODEL", "input": "Hello."},
    answer=answers.EmbeddingList,
    parameters=_BOTH,
    headers=_HEADERS,
    refuses=PAID,
)
SPEECH = Description(
    name="createSpeech",
    tag=SOUND,
    summary="A text, spoken",
    about="As OpenAI's; the sound comes as it is made. `voice` is alloy without it, `response_format` mp3. A text of "
    "more than 4,096 characters, with `Prefer: respond-async` or a `webhook_url`, is spoken as a task: the answer is "
    "the file when that is done within `wait` seconds (60), and else JSON, with status 202.",
    prefix="Speech",
    body=SpeechBody,
    answer=answers.SpeechTask,
    statuses=(202,),
    example={"model": "MODEL", "input": "Hello.", "voice": "alloy"},
    media=(*(Media(content_type=kind, shape=bytes) for kind in CONTENT_TYPES.values()), STREAM),
    parameters=(*_BOTH, PREFER),
    headers=(REPLAYED,),
    refuses=PAID,
)
TRANSCRIPTIONS = Description(
    name="createTranscription",
    tag=SOUND,
    summary="What is said in a sound",
    about="As OpenAI's; `stream` gives the text as it is found.",
    prefix="Transcription",
    form=TranscriptionForm,
    answer=answers.Transcript,
    media=(Media(content_type="text/plain"), STREAM),
    parameters=_BOTH,
    headers=_HEADERS,
    refuses=PAID,
)
TRANSLATIONS = Description(
    name="createTranslation",
    tag=SOUND,
    summary="What is said in a sound, in English",
    prefix="Translation",
    form=TranslationForm,
    answer=answers.Transcript,
    media=(Media(content_type="text/plain"),),
    parameters=_BOTH,
    headers=_HEADERS,
    refuses=PAID,
)
