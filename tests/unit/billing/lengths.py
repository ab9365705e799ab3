"""How long property tests run: briefly by default, TOLLBRIDGE_TEST_FACTOR times as long when asked (`make faults`)."""

import os

from hypothesis import HealthCheck, Phase, settings


def brief(*, examples: int, steps: int, shrinks: bool = True) -> settings:
    """Settings of a state machine. One whose outcome depends on the interleaving of threads can't be shrunk."""
    phases = tuple(Phase) if shrinks else (Phase.explicit, Phase.reuse, Phase.generate)
    return settings(
        max_examples=examples * int(os.environ.get("TOLLBRIDGE_TEST_FACTOR", "1")),
        stateful_step_count=steps,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
