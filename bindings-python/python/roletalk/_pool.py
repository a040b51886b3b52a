"""The threads that call handlers which are plain functions."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from typing import Any, Callable, Optional

from ._engine import Context

Handler = Callable[[Context], Any]
Done = Callable[[Context, Any, Optional[BaseException]], None]
Job = tuple[contextvars.Context, Handler, Context, Done]


class _Thread(threading.Thread):
    busy = False
    """Whether it may be calling a handler."""

    def __init__(self, work: Callable[[_Thread], None]) -> None:
        # A daemon: a handler that hangs must not keep the interpreter from exiting.
        super().__init__(target=work, args=(self,), name="roletalk handlers", daemon=True)


class Pool:
    """A few threads, started when they are needed.

    Cheaper than ``run_in_executor``: no future for each call, and the loop is woken once for all calls
    that have ended meanwhile.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, size: int, context: contextvars.Context
    ) -> None:
        self._loop = loop
        # What the loop calls for those that have ended runs in it.
        self._context = context
        self._size = size
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # Under the lock: what has ended, of which the loop has been told when there is any.
        self._ended: list[tuple[Done, Context, Any, BaseException | None]] = []
        self._threads: list[_Thread] = []
        self._closed = False

    def submit(
        self, variables: contextvars.Context, handler: Handler, ctx: Context, done: Done
    ) -> None:
        """Has a thread call the handler with these context variables, which nobody else runs with, then the
        loop ``done(ctx, value, error)``. Raises ``RuntimeError`` when there is no thread and none can be
        had."""
        self._jobs.put((variables, handler, ctx, done))
        if len(self._threads) < self._size and self._jobs.qsize() > 0:
            thread = _Thread(self._work)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    self._jobs.get_nowait()
                    raise
            else:
                self._threads.append(thread)

    def close(self) -> None:
        """Ends the threads: those that call nothing at once, the others behind what they are doing; nobody
        hears of that any more."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            # One that is not busy by now will see that it is over before it calls anything.
            if not thread.busy:
                thread.join()

    def _work(self, thread: _Thread) -> None:
        while True:
            thread.busy = False
            job = self._jobs.get()
            thread.busy = True
            if job is None or self._closed:
                return
            variables, handler, ctx, done = job
            try:
                value, error = variables.run(handler, ctx), None
            except BaseException as raised:
                value, error = None, raised
            with self._lock:
                is_first = not self._ended
                self._ended.append((done, ctx, value, error))
            # Waiting for the next one must keep nothing alive.
            del job, variables, handler, ctx, done, value, error
            if is_first:
                try:
                    self._loop.call_soon_threadsafe(self._collect, context=self._context)
                except RuntimeError:
                    # The loop is closed.
                    return

    def _collect(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        ended.reverse()
        try:
            while ended:
                done, ctx, value, error = ended.pop()
                if not self._closed:
                    done(ctx, value, error)
        finally:
            if ended:
                # One has raised, such as KeyboardInterrupt in a codec.
                ended.reverse()
                with self._lock:
                    self._ended[:0] = ended
                self._loop.call_soon(self._collect, context=self._context)
