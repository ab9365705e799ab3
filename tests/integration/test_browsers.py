"""A web page of any origin chats with the running gateway as a browser lets it: preflight, answer, stream, refusal."""

import httpx

from tests.integration.running import Gateway

PAGE = "https://app.example.com"
WANTED = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def test_a_page_asks_first_and_may_then_read_answers_streams_and_refusals(system: Gateway) -> None:
    """The preflight needs no key and has no body; what follows has the headers that the page reads."""
    account = system.customer(credit_usd="1")
    url = f"{system.base_url}/v1/chat/completions"
    first = httpx.options(url, headers={"origin": PAGE, **WANTED})
    assert (first.status_code, first.content, first.headers["access-control-allow-origin"]) == (204, b"", "*")
    assert first.headers["access-control-allow-headers"] == "authorization,content-type"
    body = {"model": "alpha-chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
    for key, stream, status in ((account.key, False, 200), (account.key, True, 200), ("tb_live_wrong", False, 401)):
        headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
        reply = httpx.post(url, json={**body, "stream": stream}, headers=headers, timeout=20)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, "*")
        assert "x-request-id" in reply.headers["access-control-expose-headers"].split(", ")
        assert reply.headers["x-request-id"]


def test_the_admin_api_is_offered_to_no_page(system: Gateway) -> None:
    """With the right token too, a browser keeps its answer from a page of another origin."""
    headers = {"origin": PAGE, "authorization": f"Bearer {system.ready['admin_token']}"}
    reply = httpx.get(f"{system.base_url}/admin/accounts", headers=headers)
    assert reply.status_code == 200
    assert not [name for name in reply.headers if name.startswith("access-control-")]
