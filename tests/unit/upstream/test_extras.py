"""What costs extra deep inside a Messages request is refused however it is spelt, unless it is priced."""

import msgspec
import pytest

from chassis.errors import TollbridgeError
from pricing.prices import Rates
from upstream.anthropic.costly import refuse_costly
from upstream.extras import extras

HOUR = b'[{"content":[{"type":"text","text":"x","cache_control":{"\\u0074tl":"1h"}}]}]'


@pytest.mark.parametrize("name", ["system", "messages", "tools"])
def test_an_hours_cache_is_refused_wherever_it_is_asked_for(name: str) -> None:
    """Escaped or not, raw or plain; a model that prices it offers it."""
    for value in (msgspec.Raw(HOUR), msgspec.json.decode(HOUR)):
        with pytest.raises(TollbridgeError) as refused:
            refuse_costly({name: value})
        assert refused.value.details == {"param": "cache_control.ttl"}
        refuse_costly({name: value}, rates=Rates(cache_write_1h=1))


def test_what_cannot_cost_extra_is_not_parsed() -> None:
    """Bytes without a mark are let through unread: here they are no JSON at all."""
    assert extras(msgspec.Raw(b"[no JSON")) == set()
