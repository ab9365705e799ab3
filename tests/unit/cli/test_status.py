"""`tollbridge status` while the instance works."""

import threading
from pathlib import Path

from cli.status import _bytes_below


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
