"""Counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .unit import Unit

__all__ = ["ConnectionStats", "PeerStats", "UnitStats"]


@dataclass(frozen=True)
class ConnectionStats:
    """Counters of one connection since it was opened."""

    frames_sent: int = 0
    """roletalk frames sent, or waiting to be written."""
    frames_received: int = 0
    """roletalk frames received."""
    bytes_sent: int = 0
    """Bytes of WebSocket frames sent, or waiting to be written."""
    bytes_received: int = 0
    """Bytes of roletalk frames received."""
    queued: int = 0
    """Bytes that wait to be written."""
    round_trip: float | None = None
    """Seconds that the last ping took; None before the first answer."""


@dataclass(frozen=True)
class UnitStats:
    """Counters of one unit since it connected."""

    messages_sent: int = 0
    """One-way messages sent."""
    messages_received: int = 0
    """One-way messages received."""
    messages_dropped: int = 0
    """One-way messages dropped because too many handlers were running."""
    requests_sent: int = 0
    """Requests sent, stream openings included."""
    requests_received: int = 0
    """Requests received, stream openings included."""
    requests_shed: int = 0
    """Requests rejected because too many handlers were running."""
    requests_expired: int = 0
    """Requests received that were not begun, since their time was up or their requester had given up."""
    denied: int = 0
    """Messages and requests received, stream openings included, that the policy did not allow."""
    requests_turned_away: int = 0
    """Requests received that were not begun, since they came after the roles were withdrawn."""
    requests_rerouted: int = 0
    """Requests sent that the other side has surely not begun, and that went on to another unit."""
    cancels_sent: int = 0
    """Requests sent that were given up, of which the other side was told."""
    cancels_received: int = 0
    """Requests received of which the other side told that they were given up, whether or not they were still
    running."""
    fields_left_out: int = 0
    """Messages, requests and answers whose headers and trace context were left out, since the other side does
    not take them."""
    waiting: int = 0
    """Requests sent that wait for an answer."""
    running: int = 0
    """Handlers that are running for this unit's messages and requests."""
    running_bytes: int = 0
    """Bytes of what those handlers were called with."""
    streams: int = 0
    """Streams that are open or being opened."""
    stream_bytes_sent: int = 0
    """Stream bytes sent."""
    stream_bytes_received: int = 0
    """Stream bytes received."""
    last_answer: float | None = None
    """Seconds from the last answered request to its answer."""
    answer_time: float | None = None
    """Seconds that its answers take, smoothed, one at most: what ``"least_loaded"`` counts with."""
    connections: list[ConnectionStats] = field(default_factory=list)
    """One entry for each connection."""

    @staticmethod
    def _of(counters: dict[str, Any] | None) -> UnitStats:
        if counters is None:
            return UnitStats()
        connections = [ConnectionStats(**conn) for conn in counters.pop("connections")]
        return UnitStats(connections=connections, **counters)


@dataclass(frozen=True)
class PeerStats:
    """Counters of a peer."""

    units: Mapping[Unit, UnitStats]
    """Connected units, each with its counters."""
    handshakes: int
    """Accepted connections whose handshake is under way."""
    queued: int
    """Bytes that wait to be written on all connections."""
    reconnects: int
    """Addresses that were connected again after a loss, or after failures."""
    addresses_ignored: int = 0
    """Addresses that units have told and that were not dialed, see ``acquaintance_networks`` of ``Peer``. One
    whose name resolves to such addresses counts for each attempt."""
