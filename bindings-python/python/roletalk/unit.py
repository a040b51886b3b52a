"""Connected remote peers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._engine import printable
from .access import Identity
from .stats import UnitStats

if TYPE_CHECKING:
    from ._host import Host

__all__ = ["Unit"]


class Unit:
    """A connected remote peer: its name, tags and roles, and the means to close it.

    It stays usable after the unit has gone; then everything that needs a connection raises
    ``ConnectionLostError``. A unit that comes back is a new one, with the same ``id`` if its process
    is the same.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_engine",
        "_friendly",
        "_id",
        "_identities",
        "_identity",
        "_meta",
        "_name",
        "_number",
        "_roles",
        "_tags",
    )

    def __init__(self, host: Host, number: int, conn: int, description: str) -> None:
        self._engine = host.engine
        self._number = number
        self._closed: asyncio.Future[None] = host.loop.create_future()
        # By connection; replaced as a whole, for other threads that look at it.
        self._identities: tuple[tuple[int, Identity], ...] = ()
        self._describe(conn, description)

    def _describe(self, conn: int, description: str) -> None:
        """A connection is open, on which it says and shows this of itself."""
        told = json.loads(description)
        self._identity = Identity._of(told["identity"])
        self._identities += ((conn, self._identity),)
        self._id: str = told["id"]
        self._name: str = told["name"]
        self._friendly: bool = told["friendly"]
        self._meta: dict[str, Any] = told["meta"]
        self._tags: dict[str, str] = told["tags"]
        self._roles: tuple[str, ...] = tuple(told["roles"])

    def _disconnected(self, conn: int) -> None:
        self._identities = tuple(pair for pair in self._identities if pair[0] != conn)

    @property
    def id(self) -> str:
        """The remote peer's id, unique for its lifetime. Opaque."""
        return self._id

    @property
    def name(self) -> str:
        """The remote peer's name; may be empty."""
        return self._name

    @property
    def tags(self) -> Mapping[str, str]:
        """The remote peer's tags, as they were when it connected."""
        return dict(self._tags)

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the remote peer runs on: ``os``, ``runtime``, ``time``, ``uptime``, ``protocol``."""
        return dict(self._meta)

    @property
    def identity(self) -> Identity:
        """Who it is, as far as it has shown that on the connection that was opened last: key, certificate,
        claims. The name, the tags and the id are only what it says of itself."""
        return self._identity

    @property
    def identities(self) -> list[Identity]:
        """What it has shown on each of its open connections, which agree in all but address, headers and
        direction, in the order in which they were opened."""
        return [identity for _, identity in self._identities]

    @property
    def friendly(self) -> bool:
        """Whether the remote peer wants to be told of others."""
        return self._friendly

    @property
    def roles(self) -> list[str]:
        """The roles that the remote peer serves now."""
        return list(self._roles)

    @property
    def is_open(self) -> bool:
        """Whether a connection is open."""
        return self._engine.is_open(self._number)

    async def close(self) -> None:
        """Closes all connections to this unit, with code 4000, and waits until they are closed.

        The addresses that this peer dialed for them are not dialed again; the remote peer may come
        back if it dialed us.
        """
        self._engine.close_unit(self._number)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Waits until the last connection has closed."""
        await asyncio.shield(self._closed)

    def stats(self) -> UnitStats:
        """Counters since the unit connected.

        Returns:
            The counters as they are now; all zero when the unit is gone.
        """
        return UnitStats._of(self._engine.unit_stats(self._number))

    @property
    def round_trip(self) -> float | None:
        """The seconds that the last answered ping took on the fastest connection; None before that."""
        times = [
            conn.round_trip for conn in self.stats().connections if conn.round_trip is not None
        ]
        return min(times) if times else None

    def __str__(self) -> str:
        return f"'{printable(self._name)}' {printable(self._id)}"

    def __repr__(self) -> str:
        return f"<Unit {self}>"
