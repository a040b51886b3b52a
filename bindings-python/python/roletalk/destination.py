"""Roles as offered by the units that are connected."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from . import _checks, _engine
from ._engine import DestinationBase, Extras, current_call
from ._headers import NO_HEADERS, Answer, Headers, HeadersLike
from .balance import Balance, Standing
from .errors import ConnectionLostError, NoUnitError, RejectedError, TimeoutError
from .streams import Readable, Writable
from .unit import Unit

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["Destination", "Survey", "UnitAnswer"]


class Destination(DestinationBase):
    """A role as offered by the units that are connected: where messages, requests and streams go.

    From ``Peer.destination()``. Each message, request or stream goes to the unit that the balance chooses
    (see ``Peer``), unless it is for one unit, with ``to``.
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

    def standings(self) -> list[Standing]:
        """How the units stand that serve the role now, in the order in which they were found: what the
        choice is made by, and which are left out.

        Returns:
            The units, each with what is known of it.

        Raises:
            RuntimeError: In another thread than the loop's.
        """
        return [Standing(*parts) for parts in self._standings()]

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until a unit serves the role.

        Args:
            timeout: The most seconds that it waits; without, as long as it takes.

        Raises:
            TimeoutError: When none does in time.
            ClosedError: When the peer is closed.
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
        self,
        event: str,
        data: Any = None,
        *,
        to: Unit | None = None,
        ordered: bool = True,
        headers: HeadersLike | None = None,
        headers_required: bool = False,
        traceparent: str | None = None,
        tracestate: str | None = None,
        baggage: str | None = None,
        inherit: bool = True,
        balance: Balance | None = None,
        prefer: Mapping[str, str] | None = None,
        key: str | bytes | None = None,
    ) -> None:
        """Sends a one-way message to the unit that the balance chooses, or to ``to``.

        Returns when the unit's connection has taken it into its queue, which may have to wait for
        room; nothing tells whether it arrived. When the unit has gone before that, it goes to the next one,
        unless ``to`` was given. Cancelling it while it waits sends nothing. In a handler, it goes with the
        trace context of what is being handled, unless ``inherit`` is False.

        Args:
            event: The name of the action.
            data: The payload.
            to: The unit to send it to, whatever the last three of these say; without, it is chosen.
            ordered: Without, it may overtake others on a less loaded connection of the unit.
            headers: As in ``request``.
            headers_required: As in ``request``.
            traceparent: As in ``request``.
            tracestate: As in ``request``.
            baggage: As in ``request``.
            inherit: Whether it goes with the trace context of what is being handled.
            balance: As in ``request``.
            prefer: As in ``request``.
            key: As in ``request``.

        Raises:
            NoUnitError: When no unit serves the role.
            UnsupportedError: When no unit takes headers that are required.
            ConnectionLostError: When the unit is gone.
            TooLargeError: For a message, or headers, over the limit.
            DataError: When the data cannot be sent.
            InvalidArgumentError: For an event name over 65535 bytes, for the name of a header or a trace
                context of another form, and for what is wrong with the choice of the unit, as in ``request``.
            ClosedError: When the peer is closed.
        """
        extras = _extras(headers, headers_required, traceparent, tracestate, baggage)
        by = None
        if balance is not None or prefer is not None or key is not None:
            by = self._balance(balance, prefer, key)
        first = None if to is None else self._number_of(to)
        chosen = to is not None
        full = self._try_send(event, data, first, chosen, ordered, extras, inherit, by)
        if full is not None:
            await self._send_later(event, full, chosen, ordered, extras, inherit, by)

    async def _send_later(
        self,
        event: str,
        full: tuple[int, _engine.Encoded],
        chosen: bool,
        ordered: bool,
        extras: Extras | None,
        inherit: bool,
        by: _engine.Balance | None,
    ) -> None:
        """Sends what a unit had no room for."""
        left: tuple[int, _engine.Encoded] | None = full
        while left is not None:
            unit, data = left
            await self._host.engine.wait_room(unit)
            left = self._try_send(event, data, unit, chosen, ordered, extras, inherit, by)

    async def _send_to(
        self, unit: Unit, event: str, data: Any, extras: Extras | None, inherit: bool
    ) -> None:
        number = self._number_of(unit)
        full = self._try_send(event, data, number, True, True, extras, inherit, None)
        if full is not None:
            await self._send_later(event, full, True, True, extras, inherit, None)

    async def broadcast(
        self,
        event: str,
        data: Any = None,
        *,
        headers: HeadersLike | None = None,
        headers_required: bool = False,
        traceparent: str | None = None,
        tracestate: str | None = None,
        baggage: str | None = None,
        inherit: bool = True,
    ) -> int:
        """Sends a one-way message to every unit that serves the role now. Units that close meanwhile are
        passed over. Cancelling it sends no more.

        Args:
            event: As in ``send``, as are the others.

        Returns:
            How many units took it.

        Raises:
            Error: As ``send``.
        """
        self._host.check_open()
        extras = _extras(headers, headers_required, traceparent, tracestate, baggage)
        taken = 0
        outcomes = await asyncio.gather(
            *(self._send_to(unit, event, data, extras, inherit) for unit in self.units),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is None:
                taken += 1
            elif not isinstance(outcome, ConnectionLostError):
                raise outcome
        return taken

    def survey(
        self,
        event: str,
        data: Any = None,
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        headers_required: bool = False,
        traceparent: str | None = None,
        tracestate: str | None = None,
        baggage: str | None = None,
        inherit: bool = True,
    ) -> Survey:
        """Sends a request to every unit that serves the role now.

        ``async for answer in destination.survey(...)`` gives a ``UnitAnswer`` for each as they arrive.
        Leaving the loop early does not cancel the rest: use ``async with`` for that. What is cancelled is
        given up: the handlers at the other ends are cancelled.

        Args:
            event: The name of the action.
            data: The payload.
            timeout: Seconds that each unit has; as in ``request``, as are the others.

        Returns:
            The answers, to be iterated over.

        Raises:
            Error: As ``request`` does at once; what comes later is in the ``UnitAnswer`` of a unit.
        """
        self._host.check_open()
        extras = _extras(headers, headers_required, traceparent, tracestate, baggage)
        return Survey(self, event, data, timeout, extras, inherit)

    def readable(
        self,
        event: str,
        data: Any = None,
        *,
        to: Unit | None = None,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        headers_required: bool = False,
        traceparent: str | None = None,
        tracestate: str | None = None,
        baggage: str | None = None,
        inherit: bool = True,
        wait_for_unit: bool | None = None,
        balance: Balance | None = None,
        prefer: Mapping[str, str] | None = None,
        key: str | bytes | None = None,
    ) -> Readable:
        """A stream to read from the unit that the balance chooses now, or from ``to``; it is asked for when
        the result is awaited, entered with ``async with``, or iterated over. Cancelling that gives it up.
        When the unit has surely not begun it, it goes on to the next one, unless ``to`` was given.

        Args:
            event: The name of the action.
            data: The payload.
            to: The unit to ask, whatever the last three of these say; without, it is chosen.
            timeout: Seconds within which it is to be accepted, which do not limit the stream itself.
            headers: As in ``request``, as are the others.
            wait_for_unit: Whether opening it waits for a unit, within the timeout, when none serves the role,
                or a function chooses none.

        Returns:
            The stream, which is not open yet. Opening it raises as ``request``: ``RejectedError`` when it is
            refused, ``TimeoutError`` when it is not accepted in time, ``OverloadedError`` also when too many
            streams are open.

        Raises:
            NoUnitError: At once, as are those below: when no unit serves the role and none is waited for.
            UnsupportedError: When no unit takes headers that are required.
            InvalidArgumentError: For the name of a header or a trace context of another form, and for what is
                wrong with the choice of the unit, as in ``request``.
            TooLargeError: For more headers than are allowed.
            ClosedError: When the peer is closed.
        """
        extras = _extras(headers, headers_required, traceparent, tracestate, baggage)
        by = self._balance_of(balance, prefer, key)
        ask = self._asking(event, data, to, timeout, False, extras, inherit, wait_for_unit, by)
        return Readable(self._host, ask)

    def writable(
        self,
        event: str,
        data: Any = None,
        *,
        to: Unit | None = None,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        headers_required: bool = False,
        traceparent: str | None = None,
        tracestate: str | None = None,
        baggage: str | None = None,
        inherit: bool = True,
        wait_for_unit: bool | None = None,
        balance: Balance | None = None,
        prefer: Mapping[str, str] | None = None,
        key: str | bytes | None = None,
    ) -> Writable:
        """A stream to write to the unit that the balance chooses now, or to ``to``; it is asked for when the
        result is awaited or entered with ``async with``.

        Args:
            event: As in ``readable``, as are the others.

        Returns:
            The stream, which is not open yet.

        Raises:
            Error: As ``readable``.
        """
        extras = _extras(headers, headers_required, traceparent, tracestate, baggage)
        by = self._balance_of(balance, prefer, key)
        ask = self._asking(event, data, to, timeout, True, extras, inherit, wait_for_unit, by)
        return Writable(self._host, ask)

    def _asking(
        self,
        event: str,
        data: Any,
        to: Unit | None,
        timeout: float | None,
        writable: bool,
        extras: Extras | None,
        inherit: bool,
        wait_for_unit: bool | None,
        by: _engine.Balance | None,
    ) -> Callable[[], asyncio.Future[tuple[int, int, Answer]]]:
        """What asks for a stream. That there is no unit is told at once, unless it waits for one."""
        waits = self._waits if wait_for_unit is None else wait_for_unit
        chosen = to is not None
        unit: int | None = None
        if to is not None:
            unit = self._number_of(to)
        else:
            try:
                unit = self._next(extras is not None and extras.required, by)
            except NoUnitError:
                if not waits:
                    raise
        return functools.partial(
            self._open_stream,
            event,
            data,
            unit,
            chosen,
            timeout,
            writable,
            extras,
            inherit,
            waits,
            by,
        )

    def _balance_of(
        self,
        balance: Balance | None,
        prefer: Mapping[str, str] | None,
        key: str | bytes | None,
    ) -> _engine.Balance | None:
        if balance is None and prefer is None and key is None:
            return None
        return self._balance(balance, prefer, key)

    def __repr__(self) -> str:
        return f"<Destination {self.name!r}, {len(self.units)} units>"


def _extras(
    headers: HeadersLike | None,
    headers_required: bool,
    traceparent: str | None,
    tracestate: str | None,
    baggage: str | None,
) -> Extras | None:
    if headers is None and traceparent is None and tracestate is None and baggage is None:
        return None
    return Extras(headers, headers_required, traceparent, tracestate, baggage)


@dataclass(frozen=True)
class UnitAnswer:
    """What one unit answered to a survey."""

    unit: Unit
    """The unit that was asked."""
    data: Any
    """Its answer; None when there is an error."""
    error: BaseException | None
    """Why it gave no answer."""
    headers: Headers = NO_HEADERS
    """The headers of its answer."""

    def result(self) -> Any:
        """The answer.

        Returns:
            What the handler of the unit returned.

        Raises:
            Error: The error, when there is one.
        """
        if self.error is not None:
            raise self.error
        return self.data


class Survey:
    """The answers to a survey, from ``Destination.survey()``: iterate over it with ``async for``."""

    def __init__(
        self,
        destination: Destination,
        event: str,
        data: Any,
        timeout: float | None,
        extras: Extras | None = None,
        inherit: bool = True,
    ) -> None:
        self._answers: deque[UnitAnswer] = deque()
        self._waiters: set[asyncio.Future[None]] = set()
        units = destination.units
        self._asked = len(units)
        self._futures: set[asyncio.Future[Answer]] = set()
        call = current_call() if inherit else None
        for unit in units:
            future = destination._ask_unit(event, data, unit, timeout, extras, call)
            self._futures.add(future)
            future.add_done_callback(functools.partial(self._answered, unit))

    @property
    def asked(self) -> int:
        """How many units were asked."""
        return self._asked

    def _answered(self, unit: Unit, future: asyncio.Future[Answer]) -> None:
        self._futures.discard(future)
        if not future.cancelled():
            error = future.exception()
            if error is None:
                answer = future.result()
                self._answers.append(UnitAnswer(unit, answer.data, None, answer.headers))
            else:
                headers = error.headers if isinstance(error, RejectedError) else NO_HEADERS
                self._answers.append(UnitAnswer(unit, None, error, headers))
        self._wake()

    def cancel(self) -> None:
        """Gives up waiting; the handlers that have not answered are cancelled. What has been answered before
        can still be read."""
        futures, self._futures = self._futures, set()
        for future in futures:
            future.cancel()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def all(self) -> list[UnitAnswer]:
        """All answers. Cancelling it gives up waiting, as ``cancel``.

        Returns:
            The answers, in the order of arrival.
        """
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
