"""What happens to a peer, for those who want to know."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from .errors import Error
from .unit import Unit

if TYPE_CHECKING:
    from ._host import Host

__all__ = [
    "AcceptFailed",
    "AuthRefused",
    "BadInput",
    "ConnectionClosed",
    "Denied",
    "DestinationClosed",
    "DestinationGained",
    "DestinationLost",
    "DestinationOpened",
    "Event",
    "Events",
    "HandlerFailed",
    "Missed",
    "PolicyFailed",
    "PolicyLoaded",
    "ReconnectFailed",
    "ReconnectSucceeded",
    "SlowConsumer",
    "TlsReloadFailed",
    "TlsReloaded",
    "UnitClosed",
    "UnitEjected",
    "UnitOpened",
    "UnitRestored",
]

BACKLOG = 1024


class Event:
    """The base of all events: ``UnitOpened`` and ``UnitClosed``; ``DestinationOpened``,
    ``DestinationClosed``, ``DestinationGained`` and ``DestinationLost``; ``UnitEjected`` and
    ``UnitRestored``; ``ConnectionClosed``, ``ReconnectSucceeded`` and ``ReconnectFailed``; ``AuthRefused``
    and ``BadInput``; ``AcceptFailed``; ``Denied``, ``PolicyLoaded`` and ``PolicyFailed``; ``TlsReloaded``
    and ``TlsReloadFailed``; ``SlowConsumer``, ``HandlerFailed`` and ``Missed``. They come from
    ``Peer.events()`` and ``Peer.on()``."""

    _LOG: ClassVar[tuple[int, str] | None] = None
    """The level and the text that it is logged with, if it is."""


@dataclass(frozen=True)
class UnitOpened(Event):
    """A unit connected."""

    _LOG = (logging.INFO, "unit %(unit)s connected")

    unit: Unit


@dataclass(frozen=True)
class UnitClosed(Event):
    """A unit's last connection closed."""

    _LOG = (logging.INFO, "unit %(unit)s disconnected")

    unit: Unit


@dataclass(frozen=True)
class DestinationOpened(Event):
    """The first unit that serves a destination's role is there."""

    role: str


@dataclass(frozen=True)
class DestinationClosed(Event):
    """No unit serves a destination's role any more."""

    role: str


@dataclass(frozen=True)
class DestinationGained(Event):
    """A unit serves a destination's role from now on."""

    role: str
    unit: Unit


@dataclass(frozen=True)
class DestinationLost(Event):
    """A unit serves a destination's role no longer."""

    role: str
    unit: Unit


@dataclass(frozen=True)
class UnitEjected(Event):
    """A unit keeps failing, so a destination leaves it out for a while, as its ``eject`` says. Reported at
    the next choice of a unit."""

    _LOG = (logging.WARNING, "%(unit)s is left out of %(role)s: it keeps failing")

    role: str
    unit: Unit


@dataclass(frozen=True)
class UnitRestored(Event):
    """A unit that was left out has recovered. Reported at the next choice of a unit."""

    role: str
    unit: Unit


@dataclass(frozen=True)
class Denied(Event):
    """A unit has made a call, or announced a role, that the policy does not allow. Denied calls are reported
    at most once a second for each unit: ``count`` is the number of denials since the last report, and the
    other attributes describe the last one. ``kind`` is ``"message"``, ``"request"``, ``"readable"`` or
    ``"writable"``, as the handler would be registered, or ``"serve"`` for a role that was announced, where
    ``event`` is empty. ``role`` and ``event`` are cut off at 128 bytes. ``unit.identity`` is what the
    policy goes by."""

    _LOG = (
        logging.WARNING,
        "unit %(unit)s was denied %(kind)s, role %(role)r, event %(event)r, %(count)d times",
    )

    unit: Unit
    kind: str
    role: str
    event: str
    count: int


@dataclass(frozen=True)
class PolicyLoaded(Event):
    """The file of the policy has changed, and what is in it is in force."""

    _LOG = (logging.INFO, "policy %(path)s loaded")

    path: str


@dataclass(frozen=True)
class PolicyFailed(Event):
    """The file of the policy has changed, and cannot be used: the policy before stays in force."""

    _LOG = (logging.WARNING, "policy %(path)s failed: %(error)s")

    path: str
    error: Error


@dataclass(frozen=True)
class AuthRefused(Event):
    """A handshake was refused, by this side or the other; ``reason`` is in the original's words. ``address``
    is where the other side is: what was dialed, or host and port of who came."""

    _LOG = (logging.WARNING, "authentication with %(address)s refused: %(reason)s")

    reason: str
    address: str = ""


@dataclass(frozen=True)
class ReconnectSucceeded(Event):
    """An address that was lost, or never reached, is connected now, after ``count`` failures."""

    address: str
    count: int
    unit: Unit


@dataclass(frozen=True)
class ReconnectFailed(Event):
    """An address was dialed again in vain, after ``count`` failures before. It is tried further."""

    _LOG = (logging.DEBUG, "cannot reconnect to %(address)s: %(error)s")

    address: str
    count: int
    error: Error


@dataclass(frozen=True)
class ConnectionClosed(Event):
    """A connection closed. Others of the unit may still be open; None before its handshake. ``address`` is as
    in ``AuthRefused``."""

    _LOG = (logging.DEBUG, "connection with %(address)s (unit %(unit)s) closed: %(reason)s")

    unit: Unit | None
    reason: Error
    address: str = ""


@dataclass(frozen=True)
class BadInput(Event):
    """Something came that the protocol does not allow. That one connection is closed. ``address`` is as in
    ``AuthRefused``."""

    _LOG = (logging.WARNING, "bad input from %(address)s (unit %(unit)s): %(error)s")

    unit: Unit | None
    error: Error
    address: str = ""


@dataclass(frozen=True)
class TlsReloaded(Event):
    """Certificates that this peer listens or dials with, a ``TlsFiles``, have changed. ``expires`` is when
    they are of no use any more, if that is known."""

    _LOG = (logging.INFO, "TLS settings changed, they expire on %(expires)s")

    expires: datetime | None


@dataclass(frozen=True)
class TlsReloadFailed(Event):
    """Files of certificates that are watched, those of a ``TlsFiles``, have changed, and cannot be used. What
    was in force stays. Reported once for each change; ``error`` says which files, and what is wrong."""

    _LOG = (logging.WARNING, "TLS settings not changed: %(error)s")

    error: Error


@dataclass(frozen=True)
class SlowConsumer(Event):
    """A unit takes no data although ``queued`` bytes wait for it, or sends more than the handlers can
    do: ``dropped`` messages and requests were dropped or rejected so far."""

    _LOG = (
        logging.WARNING,
        "slow consumer, unit %(unit)s: %(queued)d bytes queued, %(dropped)d dropped",
    )

    unit: Unit
    queued: int
    dropped: int


@dataclass(frozen=True)
class HandlerFailed(Event):
    """The handler of ``event`` of ``role`` raised where no requester hears of it: that of a message, or
    of an open stream."""

    unit: Unit
    role: str
    event: str
    error: BaseException


@dataclass(frozen=True)
class AcceptFailed(Event):
    """Connections could not be accepted for want of file descriptors or memory, or unauthenticated
    connections were evicted (``error`` is an ``OverloadedError``), see ``Limits.handshakes``. The peer keeps
    accepting as soon as it can. Reported at most once a second for each of the two."""

    _LOG = (logging.WARNING, "%(error)s")

    error: Error


@dataclass(frozen=True)
class Missed(Event):
    """This subscriber was too slow and has missed ``count`` events."""

    count: int


class Events:
    """A subscription to a peer's events, from ``Peer.events()``: iterate over it with ``async for``.

    It sees what happens from its creation on, and ends when the peer is closed. When it lags more than
    1024 events behind, the oldest are replaced by one ``Missed``.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._queue: deque[Event] = deque()
        self._missed = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        self._host.check_thread()
        while True:
            if self._missed:
                missed, self._missed = self._missed, 0
                return Missed(missed)
            if self._queue:
                return self._queue.popleft()
            if self._ended:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("these events are already being waited for")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def close(self) -> None:
        """Ends the subscription; what has happened can still be read."""
        self._host.check_thread()
        self._ended = True
        self._wake()

    def _put(self, event: Event) -> None:
        if self._ended:
            return
        if len(self._queue) == BACKLOG:
            self._queue.popleft()
            self._missed += 1
        self._queue.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
