"""A seeded mix of clients: what each asks next, how patient it is, and what it saw of the answer.

The same seed asks the same questions in the same order per client; what the faults make of them differs from run to
run, since processes and networks have their own time. Some ask under an idempotency key, and ask again. Every script
keeps within what the gateway can know: input and output are plausible unless the script says otherwise, so that the
provider's log is the truth about the price.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import re
import time
import uuid
from collections import Counter
from decimal import Decimal
from typing import Any

import aiohttp

from tests.faults.at_rest import Run
from tests.faults.checker import Price
from tests.faults.errands import IMAGE_MODEL
from tests.faults.seen import Told
from tests.integration.running import Account

PROTOCOLS = ("openai", "anthropic")
POLICIES = ("drain", "cancel", "absorb")
CACHED = {"input": Decimal("1.5"), "cached_input": Decimal("0.15"), "cache_write": Decimal("1.875"), "output": 6}
PRICES = {
    f"{protocol}-{policy}": Price(per_million={name: Decimal(rate) for name, rate in CACHED.items()})
    for protocol in PROTOCOLS
    for policy in POLICIES
} | {"fixed": Price(per_request=Decimal("0.03")), IMAGE_MODEL: Price(per_image=Decimal("0.02"))}
CHATS = tuple(f"{protocol}-{policy}" for protocol in PROTOCOLS for policy in POLICIES)
COST = "cost: {input: 1, cached_input: 0.1, cache_write: 1.25, output: 4}"
SLOTS = 40
PATIENCE_S = 25.0
KEYED = 0.15
"""So many questions have an idempotency key, and are asked until they have been answered whole, and once more."""
TIMES = 8
"""How often such a question is asked at most."""
MESSAGES = "/v1/messages"
AS_MESSAGES = 0.2
"""So many questions come as Anthropic's messages, whatever protocol their provider speaks."""
MAX_OUTPUT = 4096
MESSAGE_STOP = re.compile(rb'"type": ?"message_stop"}\n\n\Z')
PIECE = re.compile(rb'"(?:content|text)": ?"word')
ODD: tuple[dict[str, Any], ...] = (
    {"output_tokens": -3, "completion_tokens": -3},
    {"output_tokens": 10**18, "completion_tokens": 10**18},
    {"output_tokens": "7", "completion_tokens": "7"},
    {"output_tokens": 7.5, "completion_tokens": 7.5},
)


def config(url: str) -> str:
    """A provider and a model for each protocol and policy, one at a fixed price, and one that paints."""
    providers, models = [], []
    for name in (*CHATS, "fixed"):
        protocol, _, policy = name.partition("-")
        if not policy:
            protocol, policy = "openai", "drain"
        base_url = f"{url}/v1" if protocol == "openai" else url
        providers.append(
            f'  - id: {name}\n    protocol: {protocol}\n    base_url: "{base_url}"\n'
            "    timeouts: {connect: 2, first_byte: 6, idle: 6, total: 60}\n"
            f"    on_disconnect: {policy}\n    drain: {{seconds: 4, at_once: 6}}\n"
            f"    accounts: [{{id: {name}-a, api_key: key-{name}, slots: {SLOTS}}}]\n"
        )
        price = "price: {per_request: 0.03}" if name == "fixed" else "price: {markup: 1.5}"
        cost = "" if name == "fixed" else f", {COST}"
        models.append(
            f"  - id: {name}\n    category: chat\n    max_output: {MAX_OUTPUT}\n"
            f"    routes: [{{provider: {name}, model: upstream, priority: 1{cost}}}]\n    {price}\n"
        )
    models.append(
        f"  - id: {IMAGE_MODEL}\n    category: image\n"
        "    routes: [{provider: fixed, model: upstream, priority: 1}]\n    price: {per_image: 0.02}\n"
    )
    head = "surfaces: [{prefix: /v1, dialect: openai}]\n"
    tail = "plans: [{id: enterprise}]\nbilling: {default_plan: enterprise, welcome_credit: 0}\nslots: {wait_s: 2}\n"
    return f"{head}providers:\n{''.join(providers)}models:\n{''.join(models)}{tail}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One request to be; `leave_after` pieces or `leave_after_s` seconds its client goes."""

    model: str
    stream: bool
    script: dict[str, Any]
    leave_after: int | None = None
    leave_after_s: float = PATIENCE_S
    key: str = ""
    path: str = "/v1/chat/completions"

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of it."""
        text = "x" * 400 + " #script " + json.dumps(self.script)
        body = {"model": self.model, "stream": self.stream, "messages": [{"role": "user", "content": text}]}
        return body | ({"max_tokens": MAX_OUTPUT} if self.path == MESSAGES else {})

    def is_whole(self, content: bytes) -> bool:
        """Whether these are all bytes of a good answer with status 200."""
        if not self.stream:
            return is_json(content)
        return content.endswith(b"data: [DONE]\n\n") or MESSAGE_STOP.search(content) is not None


def question(dice: random.Random, *, model: str | None = None) -> Question:
    """The next one that these dice ask."""
    name = model or dice.choice(CHATS)
    pieces = dice.randint(1, 30)
    used: dict[str, Any] = {
        "input_tokens": dice.randint(300, 380),
        "cached_tokens": dice.choice((0, 0, dice.randint(1, 60))),
        "output_tokens": 4 * pieces + dice.randint(5, 60),
    }
    if name.startswith("anthropic"):
        used["cache_write_tokens"] = dice.choice((0, dice.randint(1, 40)))
    script = used | {
        "chunks": pieces,
        "gap_ms": dice.choice((0, 10, 40, 80)),
        "first_byte_ms": dice.choice((0, 0, 200)),
    }
    trouble: list[dict[str, Any]] = [
        {"no_usage": True},
        {"usage": dice.choice(ODD)},
        {"fail_after_chunks": dice.randint(0, pieces)},
        {"error_after_chunks": dice.randint(0, pieces - 1)},
        {"malformed": True, "chunks": max(2, pieces)},
        {"hang_after_chunks": dice.randint(0, pieces)},
        {"status": dice.choice((400, 404, 500, 503))},
        {"status": 429, "retry_after": 1},
    ]
    if dice.random() < 0.2:
        script |= dice.choice(trouble)
    leaves = dice.random()
    return Question(
        model=name,
        stream=dice.random() < 0.7,
        script=script,
        leave_after=dice.randint(1, pieces) if leaves < 0.2 else None,
        leave_after_s=dice.uniform(0.0, 1.5) if 0.2 <= leaves < 0.3 else PATIENCE_S,
        key=str(uuid.UUID(int=dice.getrandbits(128))) if dice.random() < KEYED else "",
        path=MESSAGES if dice.random() < AS_MESSAGES else Question.path,
    )


@dataclasses.dataclass(kw_only=True)
class Client:
    """One client of the mix: asks until it is told to stop, one question after the other, of either edge."""

    run: Run
    account: Account
    dice: random.Random
    session: aiohttp.ClientSession
    seen: Counter[str]
    model: str | None = None

    async def ask_until(self, stop: asyncio.Event) -> None:
        """Asks."""
        urls = self.run.gateway.edge_urls
        while not stop.is_set():
            asked = question(self.dice, model=self.model)
            if asked.key:
                self.seen[await self.insist(asked)] += 1
            else:
                self.seen[await self.ask(asked, self.dice.choice(urls))] += 1
            await asyncio.sleep(self.dice.uniform(0, 0.2))

    async def insist(self, asked: Question) -> str:
        """A question with a key, asked until it is answered whole, and then once more; a word for what came of it."""
        wholes = 0
        for _ in range(TIMES):
            word = await self.ask(asked, self.dice.choice(self.run.gateway.edge_urls))
            wholes += word == "whole"
            if wholes == 2 or word in ("status 400", "status 502"):
                return "whole twice" if wholes == 2 else f"keyed {word}"
            asked = dataclasses.replace(asked, leave_after=None, leave_after_s=PATIENCE_S)
            await asyncio.sleep(0 if word == "whole" else self.dice.uniform(0.2, 2.0))
        return f"whole {wholes} times"

    async def ask(self, asked: Question, url: str) -> str:
        """One request to its end or until its client leaves; a word for what became of it."""
        request_id, content, left, status = "", b"", False, 0
        try:
            async with (
                asyncio.timeout(asked.leave_after_s),
                self.session.post(url + asked.path, json=asked.body, headers=self._headers(asked)) as reply,
            ):
                request_id, status = reply.headers.get("x-request-id", ""), reply.status
                with contextlib.suppress(aiohttp.ClientError):
                    async for data in reply.content.iter_any():
                        content += data
                        if asked.leave_after is not None and pieces_in(content) >= asked.leave_after:
                            left = True
                            reply.close()
                            break
        except TimeoutError:
            left = True
        except aiohttp.ClientError:
            pass
        return self._note(asked, request_id, status=status, content=content, left=left)

    def _headers(self, asked: Question) -> dict[str, str]:
        return self.account.headers | ({"idempotency-key": asked.key} if asked.key else {})

    def _note(self, asked: Question, request_id: str, *, status: int, content: bytes, left: bool) -> str:
        whole = status == 200 and asked.is_whole(content)
        if asked.key:
            if status == 200:
                told = Told(request_id=request_id, whole=whole, content=content)
                self.run.told.setdefault(asked.key, []).append(told)
        elif request_id:
            self.run.delivered[request_id] = pieces_in(content) if asked.stream else 0
            if whole:
                self.run.answered.add(request_id)
            elif not left and (status >= 400 or b'"error"' in content):
                self.run.refused.add(request_id)
            if left:
                self.run.left_at_us[request_id] = time.time_ns() // 1000
            else:
                self.run.stayed.add(request_id)
        if whole:
            return "whole"
        return "left" if left else f"status {status}" if status != 200 else "broken"


def pieces_in(content: bytes) -> int:
    """Pieces of the answer that have come; the role's chunk has an empty one."""
    return len(PIECE.findall(content))


def is_json(content: bytes) -> bool:
    """Whether the body has come whole."""
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
