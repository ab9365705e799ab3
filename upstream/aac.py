"""AAC, by the program ffmpeg where the machine has it: a process of its own, one a sound.

No free library that we could load makes it. What comes out is taken while samples go in, so that neither side waits for
the other; a program that does neither for too long is ended.
"""

import os
import selectors
import shutil
import subprocess

_WAITS_S = 20.0
"""For a program that neither reads nor writes."""
_PIECE = 1 << 16
_BIT_RATE = "64k"


class AacFailed(RuntimeError):
    """The program ended before its time, or does nothing."""


def ffmpeg_path() -> str | None:
    """Where this machine has ffmpeg."""
    return shutil.which("ffmpeg")


class AacProgram:
    """Samples of 16 bits in, ADTS frames out. Blocks. Whoever made it closes it."""

    def __init__(self, path: str, *, rate: int) -> None:
        read = ("-f", "s16le", "-ar", str(rate), "-ac", "1", "-i", "pipe:0")
        write = ("-c:a", "aac", "-b:a", _BIT_RATE, "-f", "adts", "-flush_packets", "1", "pipe:1")
        self._process = subprocess.Popen(
            [path, "-hide_banner", "-loglevel", "error", *read, *write],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._ready = selectors.DefaultSelector()
        for pipe, event in ((self._in, selectors.EVENT_WRITE), (self._out, selectors.EVENT_READ)):
            os.set_blocking(pipe.fileno(), False)
            self._ready.register(pipe, event)

    def feed(self, samples: bytes) -> bytes:
        """What of the file is ready. Raises AacFailed."""
        made, left = bytearray(), memoryview(samples)
        while left:
            for pipe in self._next():
                if pipe is self._in:
                    left = left[self._write(left) :]
                elif not (piece := os.read(self._out.fileno(), _PIECE)):
                    raise AacFailed("ffmpeg ended before its end")
                else:
                    made += piece
        return bytes(made)

    def end(self) -> bytes:
        """The rest of the file. Raises AacFailed."""
        self._ready.unregister(self._in)
        self._in.close()
        made = bytearray()
        while self._next():
            piece = os.read(self._out.fileno(), _PIECE)
            if not piece:
                break
            made += piece
        try:
            status = self._process.wait(_WAITS_S)
        except subprocess.TimeoutExpired:
            status = -1
        if status != 0:
            raise AacFailed(f"ffmpeg ended with status {status}")
        return bytes(made)

    def close(self) -> None:
        """Ends the program if it still runs; its pipes go with this object, since a thread may be waiting at them."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _next(self) -> list[object]:
        ready = [key.fileobj for key, _ in self._ready.select(_WAITS_S)]
        if not ready:
            raise AacFailed("ffmpeg neither reads nor writes")
        return list(ready)

    def _write(self, left: memoryview) -> int:
        try:
            return os.write(self._in.fileno(), left[:_PIECE])
        except BlockingIOError:
            return 0
        except BrokenPipeError as error:
            raise AacFailed("ffmpeg ended before its end") from error
