"""What the system under test sells, and at which prices: its config file, and the same prices written out by hand."""

from decimal import Decimal

CONFIG = """
surfaces: [{prefix: /v1, dialect: openai}]
providers:
  - id: alpha
    protocol: openai
    base_url: "%(provider)s/v1"
    timeouts: {connect: 2, first_byte: 20, idle: 20, total: 120}
    on_disconnect: drain
    drain: {seconds: 20, at_once: 100}
    accounts: [{id: alpha-a, api_key: canary-alpha-secret}]
  - id: alpha-cancel
    protocol: openai
    base_url: "%(provider)s/v1"
    on_disconnect: cancel
    accounts: [{id: alpha-c, api_key: canary-alpha-secret}]
  - id: claudius
    protocol: anthropic
    base_url: "%(provider)s"
    accounts: [{id: claudius-a, api_key: canary-claudius-secret}]
  - id: frail
    protocol: openai
    base_url: "%(provider)s/v1"
    accounts: [{id: frail-a, api_key: canary-frail-secret}]
  - id: jobs
    protocol: predictions
    base_url: "%(provider)s/v1"
    accounts: [{id: jobs-a, api_key: canary-jobs-secret}]
  - id: sandbox
    protocol: sandbox
    accounts: [{id: sandbox-a}]
models:
  - id: alpha-chat
    aliases: [alpha-alias]
    max_output: 4096
    category: chat
    context: 128000
    routes:
      - {provider: alpha, model: upstream-alpha, cost: {input: 0.27, cached_input: 0.027, output: 1.10}}
    price: {markup: 1.3}
  - id: alpha-cancel
    max_output: 4096
    category: chat
    routes: [{provider: alpha-cancel, model: upstream-alpha, priority: 1, cost: {input: 0.27, output: 1.10}}]
    price: {markup: 1.3}
  - id: claudius-chat
    max_output: 4096
    category: chat
    routes:
      - provider: claudius
        model: upstream-claudius
        cost: {input: 3, cached_input: 0.3, cache_write: 3.75, output: 15}
    price: {markup: 1.1}
  - id: below/*
    max_output: 4096
    category: chat
    routes: [{provider: alpha, model: "upstream-*", cost: {input: 0.27, output: 1.10}}]
    price: {markup: 2}
  - id: fixed-chat
    max_output: 4096
    category: chat
    routes: [{provider: alpha, model: upstream-alpha, priority: 1}]
    price: {per_request: 0.03}
  - id: frail-chat
    max_output: 4096
    category: chat
    routes: [{provider: frail, model: upstream-alpha}]
    price: {input: 1, output: 2}
  - id: sandbox-chat
    max_output: 4096
    category: chat
    routes: [{provider: sandbox, model: sandbox-chat}]
    price: {input: 1, output: 2}
  - id: sandbox-embedding
    category: embedding
    routes: [{provider: sandbox, model: sandbox-embedding}]
    price: {input: 0.02}
  - id: whisper-1
    category: transcription
    routes: [{provider: sandbox, model: sandbox-transcription}]
    price: {per_minute: 0.006}
  - id: tts-1
    category: speech
    routes: [{provider: sandbox, model: sandbox-speech}]
    price: {per_million_characters: 15}
  - id: sandbox-image
    aliases: [painter]
    category: image
    routes: [{provider: sandbox, model: sandbox-image, priority: 1}]
    price: {per_image: 0.02}
  - id: sandbox-video
    aliases: [sora-2]
    category: video
    routes: [{provider: sandbox, model: sandbox-video}]
    price: {per_second: {default: 0.10, 64x96: 0.30}}
  - id: sized-image
    category: image
    routes: [{provider: sandbox, model: sandbox-image}]
    price: {per_image: {default: 0.04, 32x32: 0.05, 32x32/high: 0.080000001, high: 0.07}}
  - id: jobs-image
    category: image
    routes: [{provider: jobs, model: maker/pictures}]
    price: {per_image: 0.05}
  - id: token-image
    category: image
    max_output: 4096
    routes: [{provider: sandbox, model: sandbox-image}]
    price: {input: 5, image_input: 8, output: 30}
plans:
  - {id: enterprise}
billing: {default_plan: enterprise, welcome_credit: 0, webhooks: {allowed_networks: ["127.0.0.0/8"]}}
"""

RATES = {  # USD per million tokens, as a customer pays: cost × markup, written out by hand
    "alpha-chat": {"input": Decimal("0.351"), "cached_input": Decimal("0.0351"), "output": Decimal("1.43")},
    "alpha-cancel": {"input": Decimal("0.351"), "cached_input": Decimal("0.351"), "output": Decimal("1.43")},
    "claudius-chat": {
        "input": Decimal("3.3"),
        "cached_input": Decimal("0.33"),
        "cache_write": Decimal("4.125"),
        "output": Decimal("16.5"),
    },
    "frail-chat": {"input": Decimal(1), "cached_input": Decimal(1), "output": Decimal(2)},
    "sandbox-chat": {"input": Decimal(1), "cached_input": Decimal(1), "output": Decimal(2)},
}


def price_usd(model: str, **tokens: int) -> Decimal:
    """What these tokens cost a customer, rounded up to the nano-dollar once."""
    nano = sum(RATES[model][name] * count for name, count in tokens.items()) * 1000
    return Decimal(int(nano.to_integral_value(rounding="ROUND_CEILING"))) / 1_000_000_000
