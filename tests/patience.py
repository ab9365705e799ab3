"""How long tests wait for what is promised within a time.

A machine that runs other tests beside says nothing about speed: there the time only bounds a hang, so that a run fails
for what is wrong and never for what is slow. `make faults` and `make test ARGS=…` hold the product to its times.
"""

import os

BUSY_S = 30.0


def promised(seconds: float) -> float:
    """`seconds`, or more where other tests run beside."""
    return max(seconds, BUSY_S) if "PYTEST_XDIST_WORKER" in os.environ else seconds
