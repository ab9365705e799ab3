"""The five services, each a process of its own: `python -m services.<name>`."""

import gc
import sys

if sys.argv[0] == "-m":  # so it is while Python looks for the service that this process is
    gc.disable()  # what it loads stays: looking there for garbage is a seventh of a start. chassis.lifecycle ends this
