"""Syncs of the spool that no thread waits for: the kernel itself tells when the disk has it, where it can (Linux).

A thread needs the interpreter's lock twice for each sync, and a busy loop lets go of it only for moments: half a
millisecond of CPU for each of fifty syncs a second went into waking a thread that found the lock taken again. On other
systems, where a sandbox keeps these calls from us, and for a sync of several files, the thread does it all the same.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Sequence

from services.edge.spool.spool_sync import Done, Syncer

_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""The numbers of io_setup, io_destroy, io_getevents and io_submit: the C library has no names for them."""
_REQUEST = struct.Struct("=QIIHhIQQqQII")  # struct iocb of linux/aio_abi.h
_ANSWER = struct.Struct("=QQqq")  # struct io_event
_FDSYNC, _TELL_DESCRIPTOR = 3, 1


class KernelSyncer(Syncer):
    """A syncer whose syncs of one file are the kernel's. One at a time, as its owner does."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._done: Done | None = None
        self._kernel: _Kernel | None = None
        with contextlib.suppress(OSError, KeyError, AttributeError):
            self._kernel = _Kernel()
            loop.add_reader(self._kernel.ready, self._tell, self._kernel)

    def submit(self, descriptors: Sequence[int], sync: Callable[[], None], done: Done) -> None:
        """The same as `sync`, which syncs these files; then `done` in the loop, with what it raised."""
        if self._kernel is None or len(descriptors) > 1 or not self._kernel.begin(descriptors[0]):
            super().submit(descriptors, sync, done)
            return
        self._done = done

    def close(self) -> None:
        """Waits for what was submitted, and tells of it; of what the thread does, the loop tells if it goes on."""
        super().close()
        if self._kernel is not None:
            self._loop.remove_reader(self._kernel.ready)
            self._tell(self._kernel)
            self._kernel.close()

    def _tell(self, kernel: "_Kernel") -> None:
        if self._done is not None:
            error, done, self._done = kernel.result(), self._done, None
            done(error)


class _Kernel:
    """The calls for one sync at a time. Raises OSError, KeyError or AttributeError where they are not there."""

    def __init__(self) -> None:
        setup, self._destroy, self._get, self._submit = _CALLS[os.uname().machine]
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong()
        self._answer = ctypes.create_string_buffer(_ANSWER.size)
        self.ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        if self._call(setup, 1, ctypes.byref(self._context)):
            os.close(self.ready)
            raise OSError(ctypes.get_errno(), "no asynchronous syncs")

    def begin(self, descriptor: int) -> bool:
        """Whether the kernel took it."""
        told = (_TELL_DESCRIPTOR, self.ready)
        request = ctypes.create_string_buffer(_REQUEST.pack(0, 0, 0, _FDSYNC, 0, descriptor, 0, 0, 0, 0, *told))
        requests = ctypes.c_void_p(ctypes.addressof(request))
        return bool(self._call(self._submit, self._context, 1, ctypes.byref(requests)) == 1)

    def result(self) -> OSError | None:
        """What came of what was begun; waits for it unless `ready` can be read."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.ready)
        if self._call(self._get, self._context, 1, 1, self._answer, None) != 1:
            return OSError(errno.EIO, "the kernel does not say what came of a sync")
        code: int = _ANSWER.unpack(self._answer.raw)[2]
        return OSError(-code, os.strerror(-code)) if code < 0 else None

    def close(self) -> None:
        """Waits for what has begun."""
        self._call(self._destroy, self._context)
        os.close(self.ready)
