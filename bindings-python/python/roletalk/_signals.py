"""The signals that end a service."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def caught(
    callback: Callable[[], None], loop: asyncio.AbstractEventLoop | None = None
) -> Iterator[Bell]:
    """Has SIGINT and SIGTERM call this, once, and every other of its kind; the next signal ends the process
    as it would have without this. For the main thread: elsewhere it raises ``RuntimeError``.

    ``loop`` is the one that runs in this thread. Without any, wait with the bell."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "serve() belongs into the main thread, which is the only one to hear of signals: in another "
            "one, wait for what ends the service, then call drain()"
        )
    if not _CATCHERS:
        _CATCHERS.append(_Catcher(loop))
    catcher = _CATCHERS[0]
    catcher.callbacks.append(callback)
    try:
        yield catcher.bell
    finally:
        catcher.callbacks.remove(callback)
        if not catcher.callbacks:
            _CATCHERS.clear()
            catcher.close()


class _Catcher:
    """Python's handlers of the two signals, as long as anybody serves. Used in the main thread only, where
    Python calls them, too."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.bell = Bell(loop)
        self._is_stopping = False
        self._handler = self._signalled
        self._before = {number: signal.signal(number, self._handler) for number in SIGNALS}

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if self._is_stopping:
            # Whoever asks twice does not want to wait.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        self._is_stopping = True
        for callback in tuple(self.callbacks):
            callback()

    def close(self) -> None:
        for number, handler in self._before.items():
            # Somebody else's handler stays; one that Python does not know cannot be set again.
            if signal.getsignal(number) is self._handler:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.bell.close()


_CATCHERS: list[_Catcher] = []
"""The one that there is while anybody serves."""


class Bell:
    """Wakes the main thread for a signal. Python calls handlers when that thread next runs code of Python's:
    without this, one that comes just before it begins to wait is not heard until it has waited."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._hears, self._rings = socket.socketpair()
        self._hears.setblocking(loop is None)
        self._rings.setblocking(False)
        # A loop may have one of its own, which does.
        before = signal.set_wakeup_fd(self._rings.fileno(), warn_on_full_buffer=False)
        self._is_set = before == -1
        if not self._is_set:
            signal.set_wakeup_fd(before)
        elif loop is not None:
            loop.add_reader(self._hears, self._hears.recv, 64)

    def ring(self, *_: object) -> None:
        """Wakes it for something else."""
        with contextlib.suppress(OSError):
            # When there is no room, it is awake.
            self._rings.send(b"\0")

    def wait(self) -> None:
        """Waits for a signal, or for somebody who rings."""
        self._hears.recv(64)

    def close(self) -> None:
        if self._is_set:
            other = signal.set_wakeup_fd(-1)
            if other not in (-1, self._rings.fileno()):
                # Somebody has set another one meanwhile.
                signal.set_wakeup_fd(other)
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._hears)
        self._hears.close()
        self._rings.close()
