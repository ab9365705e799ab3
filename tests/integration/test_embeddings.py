"""Embeddings through the unmodified OpenAI SDK: vectors in both encodings, at an exact price."""

from decimal import Decimal

import openai
import pytest

from tests.integration.running import Gateway


def test_the_sdk_gets_its_vectors_and_pays_for_their_input(system: Gateway):
    """The SDK asks for base64 by itself and decodes it; as floats they are the same."""
    account = system.customer(credit_usd="1")
    client = openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=account.key, max_retries=0)
    texts = ["one two three", "four five"]
    raw = client.embeddings.with_raw_response.create(model="sandbox-embedding", input=texts)
    answer = raw.parse()
    plain = client.embeddings.create(model="sandbox-embedding", input=texts, encoding_format="float", dimensions=256)
    for ours, theirs in zip(answer.data, plain.data, strict=True):
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-6)
    assert (answer.model, answer.usage.prompt_tokens) == ("sandbox-embedding", 5)
    receipt = account.receipt(raw.headers["x-request-id"])
    assert Decimal(receipt["charge"]) == 5 * Decimal("0.02") / 10**6
    assert receipt["operation"] == "embeddings"


def test_a_chat_model_makes_no_embeddings(system: Gateway):
    """And the refusal says what the model is for."""
    account = system.customer(credit_usd="1")
    client = openai.OpenAI(base_url=f"{system.base_url}/v1", api_key=account.key, max_retries=0)
    with pytest.raises(openai.APIStatusError, match="chat") as refused:
        client.embeddings.create(model="alpha-chat", input="hello")
    assert refused.value.status_code in (400, 404)
