"""Roles as offered by the units that are connected."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from . import _checks
from ._engine import DestinationBase
from .errors import ConnectionLostError, TimeoutError
from .streams import Readable, Writable, wait_for_room
from .unit import Unit

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["Destination", "Survey", "UnitAnswer"]


class Destination(DestinationBase):
    """A role as offered by the units that are connected: where messages, requests and streams go.

    From ``Peer.destination()``. Each message, request or stream goes to the next unit in turn, unless
    one is chosen with ``to``.
    """

    _host: Host

    @classmethod
    def _make(cls, host: Host, name: str) -> Destination:
        destination = cls(host.engine, name)
        destination._host = host
        return destination

    @property
    def units(self) -> list[Unit]:
        """The units that serve the role now, in the order in which they were found."""
        return self._host.engine.destination_units(self.name)

    @property
    def is_ready(self) -> bool:
        """Whether a unit serves the role now."""
        return bool(self.units)

    async def wait_ready(self, timeout: Optional[float] = None) -> None:
        """Waits until a unit serves the role, at most ``timeout`` seconds.

        Raises ``TimeoutError``, and ``ClosedError`` when the peer is closed.
        """
        self._host.check_open()
        self._host.check_loop()
        if timeout is not None:
            _checks.instance("timeout", timeout, (int, float), "a number of seconds")
        if self.is_ready:
            return
        waiter = asyncio.get_running_loop().create_future()
        waiters = self._host.ready.setdefault(self.name, [])
        waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter, timeout)
        except asyncio.TimeoutError:
            late = TimeoutError(f'No unit serves the role "{self.name}" yet')
            late._set_hint(self._host.engine.no_unit_hint(self.name))
            raise late from None
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    async def send(
        self, event: str, data: Any = None, *, to: Optional[Unit] = None, ordered: bool = True
    ) -> None:
        """Sends a one-way message to the next unit in turn, or to ``to``.

        Returns when the unit's connection has taken it into its queue, which may have to wait for
        room; nothing tells whether it arrived. Without ``ordered`` it may overtake others on a less
        loaded connection of the unit. Cancelling it while it waits sends nothing.

        Raises ``NoUnitError``, ``ConnectionLostError``, ``TooLargeError``, ``DataError``,
        ``InvalidArgumentError`` for an event name over 65535 bytes, and ``ClosedError``.
        """
        unit, sent = self._try_send(
            event, data, None if to is None else self._number_of(to), ordered
        )
        while not sent:
            await self._host.engine.wait_room(unit)
            unit, sent = self._try_send(event, data, unit, ordered)

    async def broadcast(self, event: str, data: Any = None) -> int:
        """Sends a one-way message to every unit that serves the role now; returns how many took it.

        Raises as ``send``. Units that close meanwhile are passed over.
        """
        self._host.check_open()
        taken = 0
        outcomes = await asyncio.gather(
            *(self.send(event, data, to=unit) for unit in self.units), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is None:
                taken += 1
            elif not isinstance(outcome, ConnectionLostError):
                raise outcome
        return taken

    def _request_later(
        self, event: str, data: Any, unit: int, timeout: Optional[float], ordered: bool
    ) -> asyncio.Task[Any]:
        return self._host.start_request(
            self._request_with_room(event, data, unit, timeout, ordered)
        )

    async def _request_with_room(
        self, event: str, data: Any, unit: int, timeout: Optional[float], ordered: bool
    ) -> Any:
        loop = asyncio.get_running_loop()
        since, left = loop.time(), timeout
        while True:
            await wait_for_room(self._host, unit, left)
            if timeout is not None:
                left = max(timeout - (loop.time() - since), 0.001)
            future = self._try_request(event, data, unit, left, ordered)
            if future is not None:
                return await future

    def survey(self, event: str, data: Any = None, *, timeout: Optional[float] = None) -> Survey:
        """Sends a request to every unit that serves the role now.

        ``async for answer in destination.survey(...)`` gives a ``UnitAnswer`` for each as they arrive;
        each unit has ``timeout`` seconds. Leaving the loop early does not cancel the rest: use
        ``async with`` for that.
        """
        self._host.check_open()
        return Survey(self, event, data, timeout)

    def readable(
        self,
        event: str,
        data: Any = None,
        *,
        to: Optional[Unit] = None,
        timeout: Optional[float] = None,
    ) -> Readable:
        """A stream to read from the next unit in turn, or from ``to``; it is asked for when the result
        is awaited, entered with ``async with``, or iterated over.

        That raises as ``request``: ``RejectedError`` when it is refused, ``TimeoutError`` when it is
        not accepted within ``timeout`` seconds (which do not limit the stream itself),
        ``OverloadedError`` also when too many streams are open.

        Raises ``NoUnitError`` and ``ClosedError`` at once.
        """
        unit = self._next() if to is None else self._number_of(to)
        return Readable(self._host, (self.name, event, data, unit, timeout))

    def writable(
        self,
        event: str,
        data: Any = None,
        *,
        to: Optional[Unit] = None,
        timeout: Optional[float] = None,
    ) -> Writable:
        """A stream to write to the next unit in turn, or to ``to``; it is asked for when the result is
        awaited or entered with ``async with``. Raises as ``readable``."""
        unit = self._next() if to is None else self._number_of(to)
        return Writable(self._host, (self.name, event, data, unit, timeout))

    def __repr__(self) -> str:
        return f"<Destination {self.name!r}, {len(self.units)} units>"


@dataclass(frozen=True)
class UnitAnswer:
    """What one unit answered to a survey."""

    unit: Unit
    """The unit that was asked."""
    data: Any
    """Its answer; None when there is an error."""
    error: Optional[BaseException]
    """Why it gave no answer."""

    def result(self) -> Any:
        """The answer. Raises the error when there is one."""
        if self.error is not None:
            raise self.error
        return self.data


class Survey:
    """The answers to a survey, from ``Destination.survey()``: iterate over it with ``async for``."""

    def __init__(
        self, destination: Destination, event: str, data: Any, timeout: Optional[float]
    ) -> None:
        self._answers: deque[UnitAnswer] = deque()
        self._waiters: set[asyncio.Future[None]] = set()
        units = destination.units
        self._asked = len(units)
        self._futures: set[asyncio.Future[Any]] = set()
        for unit in units:
            future = destination.request(event, data, to=unit, timeout=timeout)
            self._futures.add(future)
            future.add_done_callback(functools.partial(self._answered, unit))

    @property
    def asked(self) -> int:
        """How many units were asked."""
        return self._asked

    def _answered(self, unit: Unit, future: asyncio.Future[Any]) -> None:
        self._futures.discard(future)
        if not future.cancelled():
            error = future.exception()
            self._answers.append(UnitAnswer(unit, None if error else future.result(), error))
        self._wake()

    def cancel(self) -> None:
        """Gives up waiting. What has been answered before can still be read."""
        futures, self._futures = self._futures, set()
        for future in futures:
            future.cancel()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def all(self) -> list[UnitAnswer]:
        """All answers, in the order of arrival. Cancelling it gives up waiting."""
        try:
            return [answer async for answer in self]
        finally:
            self.cancel()

    def __aiter__(self) -> Survey:
        return self

    async def __anext__(self) -> UnitAnswer:
        while not self._answers:
            if not self._futures:
                raise StopAsyncIteration
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self._answers.popleft()

    async def __aenter__(self) -> Survey:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
