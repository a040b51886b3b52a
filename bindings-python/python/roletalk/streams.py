"""The two ends of a stream."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from . import _engine
from ._headers import NO_HEADERS, Answer, Headers
from .errors import StreamClosedError, reason_of

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from ._host import Host
    from .unit import Unit

__all__ = ["Readable", "Writable"]

Self = TypeVar("Self", bound="_Stream")

_Ask = Callable[[], "asyncio.Future[tuple[int, int, Answer]]"]
"""Asks for a stream: the outcome is the numbers of unit and stream, and what it was accepted with."""


class _Stream:
    _WRITABLE = False
    _DROPPED = ""

    def __init__(
        self,
        host: Host,
        ask: _Ask | None = None,
    ) -> None:
        self._host = host
        self._ask = ask
        self._unit: Unit | None = None
        self._unit_number = 0
        self._number: int | None = None
        self._answer: Answer | None = None
        self._waiting = False
        self._closed = False

    @classmethod
    def _accepted(cls: type[Self], host: Host, unit: Unit, number: int) -> Self:
        stream = cls(host)
        stream._unit = unit
        stream._unit_number = unit._number
        stream._number = number
        return stream

    @property
    def unit(self) -> Unit | None:
        """The unit at the other end; None before the stream is open."""
        return self._unit

    @property
    def answer(self) -> Any:
        """The payload that the stream was accepted with."""
        return None if self._answer is None else self._answer.data

    @property
    def headers(self) -> Headers:
        """The headers that the stream was accepted with."""
        return NO_HEADERS if self._answer is None else self._answer.headers

    async def _open(self) -> None:
        if self._ask is None:
            self._check()
            return
        ask, self._ask = self._ask, None
        future = ask()
        try:
            opened = await future
        except BaseException:
            future.cancel()
            if not future.cancelled() and future.exception() is None:
                # Accepted in the moment in which it was given up.
                unit, number, _ = future.result()
                self._host.engine.close_stream(unit, number, "Request was abandoned")
            self._closed = True
            raise
        self._unit_number, self._number, self._answer = opened
        units = self._host.engine.units()
        self._unit = next((unit for unit in units if unit._number == self._unit_number), None)

    def __await__(self: Self) -> Generator[Any, Any, Self]:
        yield from self._open().__await__()
        return self

    async def __aenter__(self: Self) -> Self:
        await self._open()
        return self

    def _check(self) -> int:
        if self._closed or self._number is None:
            raise StreamClosedError("The stream is closed")
        return self._number

    async def _moved(self) -> None:
        """Waits until there is reason to try again."""
        number = self._check()
        if self._waiting:
            raise RuntimeError("another task waits for this stream already")
        self._waiting = True
        try:
            await self._host.engine.wait_stream(self._unit_number, number)
        finally:
            self._waiting = False

    def abort(self, reason: str = "") -> None:
        """Breaks off. Does nothing when the stream has ended.

        Args:
            reason: A text for the other end.
        """
        if not self._closed:
            if self._number is not None:
                self._host.engine.close_stream(self._unit_number, self._number, reason)
            self._closed = True

    def __del__(self) -> None:
        if not self._closed and self._number is not None:
            self._closed = True
            close = self._host.engine.close_stream
            self._host.hand_over(close, self._unit_number, self._number, self._DROPPED)


class Readable(_Stream):
    """The reading end of a stream: ``async for`` gives its pieces as bytes, as they arrive.

    From ``Destination.readable()``, which asks for it when it is awaited, entered with ``async with``,
    or iterated over; or from ``Context.accept()``. The writer is told how much it may send as this end
    is read, so that an unread stream holds at most ``Limits.stream_window`` bytes (originals may
    overrun that, up to ``stream_overrun``).

    Leaving the ``async with`` before the end, or dropping the stream, breaks it off. What the writer
    broke off with is raised, behind the data that arrived before, as ``StreamClosedError``; the loss of
    the connection as ``ConnectionLostError``.
    """

    _piece = b""
    _at = 0
    """How much of the piece was read."""
    _ended = False

    async def read(self, limit: int = -1) -> bytes:
        """The next bytes. Cancelling it loses nothing.

        Args:
            limit: The most bytes; without, all to the end.

        Returns:
            The bytes; empty at the end.

        Raises:
            StreamClosedError: What the writer broke off with, behind the data that arrived before.
            ConnectionLostError: When the connection is lost.
        """
        if limit < 0:
            return b"".join(await self._collect(sys.maxsize))
        if limit > 0:
            await self._fill()
        return self._take(limit)

    async def readexactly(self, count: int) -> bytes:
        """The next ``count`` bytes. Cancelling it loses nothing.

        Args:
            count: How many.

        Returns:
            So many bytes.

        Raises:
            asyncio.IncompleteReadError: With what there was, when the stream ends before.
            StreamClosedError: As ``read``.
            ConnectionLostError: As ``read``.
        """
        if count < 0:
            raise ValueError("count must not be negative")
        read = b"".join(await self._collect(count))
        if len(read) < count:
            raise asyncio.IncompleteReadError(read, count)
        return read

    async def _collect(self, count: int) -> list[bytes]:
        """So many bytes, less only at the end."""
        pieces: list[bytes] = []
        try:
            while count > 0 and await self._fill():
                pieces.append(self._take(count))
                count -= len(pieces[-1])
        except BaseException:
            self._piece, self._at = b"".join((*pieces, self._piece[self._at :])), 0
            raise
        return pieces

    async def _fill(self) -> bool:
        """Sees to it that there is something to take; False at the end."""
        if self._ask is not None:
            await self._open()
        while self._at == len(self._piece):
            if self._ended:
                return False
            read = self._host.engine.read_stream(self._unit_number, self._check())
            if read is None:
                await self._moved()
            elif read:
                self._piece, self._at = read, 0
            else:
                self._ended = True
                self.abort()
        return True

    def _take(self, limit: int) -> bytes:
        start, self._at = self._at, min(self._at + limit, len(self._piece))
        taken = self._piece[start : self._at]
        if self._at == len(self._piece):
            self._piece, self._at = b"", 0
        return taken

    def __aiter__(self) -> Readable:
        return self

    async def __anext__(self) -> bytes:
        if not await self._fill():
            raise StopAsyncIteration
        return self._take(len(self._piece))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort("" if error is None else reason_of(error))


class Writable(_Stream):
    """The writing end of a stream.

    From ``Destination.writable()``, which asks for it when it is awaited or entered with ``async
    with``; or from ``Context.accept()``. Leaving the ``async with`` ends the stream with ``finish()``;
    leaving it with an exception, or dropping the stream, tells the reader that it broke off.
    """

    _WRITABLE = True
    _DROPPED = "The writable stream was dropped"

    async def write(self, data: Buffer) -> None:
        """Writes all of the data, waiting while the reader is not ready for more. When it is cancelled, a
        part of the data may have been sent.

        Args:
            data: Bytes, or anything with the buffer protocol, contiguous or not.

        Raises:
            StreamClosedError: What the reader broke off with.
            ConnectionLostError: When the connection is lost.
            TypeError: For other data.
        """
        if self._ask is not None:
            await self._open()
        if type(data) is not bytes:
            data = _engine.bytes_of(data)
        engine, at, end = self._host.engine, 0, len(data)
        while True:
            at = engine.write_stream(self._unit_number, self._check(), data, at)
            if at == end:
                return
            await self._moved()

    async def finish(self) -> None:
        """Ends the stream. Between peers of this implementation it returns when the reader has read
        everything, with others when the end has been queued.

        Raises:
            StreamClosedError: As ``write``.
            ConnectionLostError: As ``write``.
        """
        if self._ask is not None:
            await self._open()
        while not self._host.engine.finish_stream(self._unit_number, self._check()):
            await self._moved()
        self.abort()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abort(reason_of(error))
        elif not self._closed:
            try:
                await self.finish()
            finally:
                self.abort(self._DROPPED)
