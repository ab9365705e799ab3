"""`python -m upstream.local`: the process of local models. It steps back for all others of this machine."""

import contextlib
import os
import resource
from pathlib import Path

from chassis.lifecycle import Lifecycle, run
from chassis.settings import load
from chassis.telemetry import configure_logging
from upstream.local import chat, embedding, transcription
from upstream.local.http_server import LocalModels, serve
from upstream.local.settings import Settings

MAX_ADDRESS_SPACE_BYTES = 6 << 30
"""Far more than the models need: what grows beyond it fails by itself."""
FIRST_TO_GO = 500
NICE = 5


def main() -> None:
    """Runs until it is asked to stop."""
    run(_run)


async def _run(lifecycle: Lifecycle) -> None:
    settings = load(Settings)
    configure_logging(service=settings.service_name, replica=settings.replica, level=settings.log_level)
    _step_back()
    threads = settings.local_threads or max(1, min(4, (os.cpu_count() or 1) - 1))
    models = LocalModels(
        load_llama=lambda: chat.load(threads=threads),
        load_embedder=embedding.load,
        load_listener=transcription.load,
    )
    runner = await serve(models, bind=settings.http_bind)
    await lifecycle.stopping.wait()
    await runner.cleanup()


def _step_back() -> None:
    """Less of the processor, a bound to the memory, and the first to be ended where memory runs out."""
    os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > MAX_ADDRESS_SPACE_BYTES:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE_BYTES, hard))
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))


if __name__ == "__main__":
    main()
