"""Providers of OpenAI's protocol that refuse the question for a stream's usage, remembered for a while.

A refusal costs one more call, so the next requests of that provider and model are asked without at once. It is
forgotten after `KEPT_S`, since servers are updated, and by a restart; the config's `stream_options: false` never is.
"""

import collections
import time
from collections.abc import Callable

from services.edge.paid.paid_request import PaidRequest
from upstream.openai.chat import object_of
from upstream.outcome import AttemptFailed, Outcome
from upstream.route import Route

KEPT_S = 3600.0
MOST = 1024
"""Names of models may be the clients' words: below a wildcard there are as many as anybody likes."""
_STREAM_OPTIONS = "stream_options"
Place = tuple[str, str, str]


class BareStreams:
    """Which streams are asked for without `stream_options`. `now_s` is a clock that never goes back."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._refused_until_s: collections.OrderedDict[Place, float] = collections.OrderedDict()
        self._answered_until_s: collections.OrderedDict[Place, float] = collections.OrderedDict()

    def holds(self, request: PaidRequest, route: Route) -> bool:
        """Whether this one is known to be refused. A client's own words travel on: they are the client's to change."""
        return self._refused_until_s.get(_place(route), 0.0) > self._now_s() and _asks_only_for_usage(request)

    def answered(self, route: Route) -> None:
        """A stream was answered with `stream_options`."""
        self._keep(self._answered_until_s, _place(route))

    def refused(self, route: Route) -> None:
        """A stream was refused with `stream_options`, and was answered without.

        Where others are answered with it, it was refused for something of this one: their usage is theirs to get.
        """
        place = _place(route)
        if self._answered_until_s.get(place, 0.0) <= self._now_s():
            self._keep(self._refused_until_s, place)

    def _keep(self, places: collections.OrderedDict[Place, float], place: Place) -> None:
        places[place] = self._now_s() + KEPT_S
        places.move_to_end(place)
        while len(places) > MOST:
            places.popitem(last=False)


def is_about_usage(failure: AttemptFailed, request: PaidRequest, route: Route) -> bool:
    """Whether it was our question for usage that was refused: its field is named, in words or as the one refused."""
    if not request.stream or route.without_stream_options or failure.outcome is not Outcome.REJECTED:
        return False
    named = _STREAM_OPTIONS in failure.message or failure.param.startswith(_STREAM_OPTIONS)
    return named and _asks_only_for_usage(request)


def _asks_only_for_usage(request: PaidRequest) -> bool:
    return object_of(request.fields.get(_STREAM_OPTIONS)).keys() <= {"include_usage"}


def _place(route: Route) -> Place:
    return route.provider_id, route.base_url, route.provider_model
