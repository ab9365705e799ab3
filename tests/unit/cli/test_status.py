"""`tollbridge status` while the instance works."""

import os
import threading
from pathlib import Path

from cli.status import _bytes_below, _row


def test_a_segment_that_is_deleted_meanwhile_does_no_harm(tmp_path: Path) -> None:
    """Spools that are emptied while their bytes are summed count without a traceback."""
    kept = tmp_path / "incarnation" / "1.spool"
    kept.parent.mkdir()
    kept.write_bytes(b"x" * 100)
    done = threading.Event()

    def churn() -> None:
        folder = tmp_path / "ended"
        while not done.is_set():
            folder.mkdir()
            for number in range(10):
                (folder / f"{number}.spool").touch()
            for number in range(10):
                (folder / f"{number}.spool").unlink()
            folder.rmdir()

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        assert {_bytes_below(tmp_path) for _ in range(1000)} == {100}
    finally:
        done.set()
        worker.join()


async def test_a_process_without_an_address_of_its_own_is_shown_as_running() -> None:
    """What follows the config file listens nowhere; NATS is where the instance says."""
    own = {"pid": os.getpid()}
    shown = await _row({"name": "config", **own}, {"nats_url": "nats://127.0.0.1:4222"})
    assert (shown["state"], shown["address"]) == ("running", "")
    shown = await _row({"name": "nats", **own}, {"nats_url": "nats://127.0.0.1:4222"})
    assert shown["address"] == "127.0.0.1:4222"
    shown = await _row({"name": "local-models", "http": "127.0.0.1:9", **own}, {})
    assert shown["address"] == "127.0.0.1:9"
