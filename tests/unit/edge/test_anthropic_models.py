"""The models list in the shape of Anthropic's API parses as Anthropic's SDK has it."""

from anthropic.types import ModelInfo

from services.edge.routes.models import as_anthropics
from tollbridge.router.v1 import router_pb2


def test_a_model_has_all_that_the_sdk_insists_on() -> None:
    """Also one of which nothing is known but its id."""
    known = router_pb2.Model(id="a/b", display_name="A B", created_at_us=1_700_000_000_000_000)
    known.bounds.context, known.bounds.max_output = 128_000, 4096
    found = as_anthropics([known, router_pb2.Model(id="c")])
    one, two = (ModelInfo.model_validate(row) for row in found["data"])
    assert (one.display_name, one.max_input_tokens, one.max_tokens) == ("A B", 128_000, 4096)
    assert one.created_at.timestamp() == 1_700_000_000
    assert (two.display_name, two.max_input_tokens, two.created_at.timestamp()) == ("c", None, 0)
    assert (found["first_id"], found["last_id"], found["has_more"]) == ("a/b", "c", False)


def test_nothing_to_show_is_an_empty_page() -> None:
    """Without a first or last id."""
    assert as_anthropics([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
