"""Bounds on what a peer holds and how long it waits."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds on what a peer holds and how long it waits; None is the default. Sizes are in bytes,
    times in seconds."""

    message_size: int | None = None
    """One WebSocket message, sent or received. Default 100 MiB, which is all that the original accepts.
    Sending more raises ``TooLargeError``; receiving more closes the connection."""
    handshake_message_size: int | None = None
    """One message before the connection is authenticated. Default 1 MiB."""
    upgrade_size: int | None = None
    """The HTTP head of an upgrade. Default 16 KiB."""
    handshake_timeout: float | None = None
    """Seconds for TLS, the upgrade and the handshake together, from accept on. Default 4 s."""
    handshakes: int | None = None
    """Unauthenticated connections: accepted, and not through the handshake. Default 1024, or a quarter of the
    process's limit on file descriptors if that is less. Beyond it, the oldest one of the address that has the
    most is evicted."""
    handshakes_per_address: int | None = None
    """Unauthenticated connections from one IPv4 address or one IPv6 network (/64). Default 1 024. Beyond it,
    the oldest one from there is evicted."""
    units: int | None = None
    """Connected units. Default 65536; further ones are refused."""
    connections_per_unit: int | None = None
    """Connections of one unit. Default 16; further ones are refused."""
    waiting_requests: int | None = None
    """Requests to one unit that wait for an answer, those for streams included, and requests that wait for a
    unit. Default 65536; further ones raise ``OverloadedError``."""
    running_handlers: int | None = None
    """Requests and messages of one unit whose handlers are running. Default 65536. At the bound,
    further ones wait for handlers to end, and when many wait, their connection is not read. If no
    handler ends for a second, requests are rejected and messages dropped, which is reported as
    ``SlowConsumer``."""
    running_bytes: int | None = None
    """What the handlers of one unit's requests, messages and stream openings hold together: what they
    were called with, until they return, and answers that wait because the unit does not read. Default
    256 MiB; one may go over. At the bound as for ``running_handlers``."""
    queue_per_connection: int | None = None
    """What waits to be written to one connection. Default 1 MiB. At the bound, sending waits."""
    owed_per_connection: int | None = None
    """What waits to be written to one connection and that the other side has caused itself. Default
    1 MiB. At the bound, nothing is read from it."""
    queue_per_peer: int | None = None
    """What waits to be written to all connections. Default 256 MiB. At the bound, sending waits. Answers
    queued for one unit take at most a 32nd of it. Up to 32 MiB of further ones may wait behind these; then
    the requests of that unit wait, and are rejected after a second."""
    streams: int | None = None
    """Open streams with one unit. Default 4096; further ones raise ``OverloadedError`` or are
    refused."""
    stream_window: int | None = None
    """What this peer holds unread of one stream. Default 1 MiB; the writer waits."""
    stream_overrun: int | None = None
    """What is held unread of a stream whose writer does not keep to its quota, as the originals may.
    Default 16 MiB; over it the stream is broken off."""
    overrun_per_unit: int | None = None
    """What all streams of a unit hold unread beyond their windows. Default 256 MiB; a stream that would
    need more is broken off."""
    request_timeout: float | None = None
    """Default time for an answer. Default 300 s, as the original."""
    acquaintance_dials: int | None = None
    """Addresses learned by acquaintance that are being dialed at the same time. Default 16."""
    acquaintance_dials_per_minute: int | None = None
    """Dials of addresses learned by acquaintance in a minute. Default 600; further ones wait."""
    acquaintance_addresses: int | None = None
    """Addresses learned by acquaintance that are remembered. Default 1024."""
    acquaintance_addresses_per_unit: int | None = None
    """Addresses learned from one unit that are remembered while there is no connection to them. Default 256;
    further ones are ignored."""
    acquaintance_patience: float | None = None
    """How long an address learned by acquaintance is tried without success. Default 120 s."""
    connection_age: float | None = None
    """Maximum age of a permanently dialed connection. It is then replaced by a new one to the same address,
    so that changed certificates and keys take effect; nothing is lost. The actual age is up to a tenth less,
    at random. Needs room for two connections (``connections_per_unit``, also that of the other side).
    Default 0 s, which means never."""

    def _given(self) -> dict[str, int | float]:
        return {name: value for name, value in asdict(self).items() if value is not None}
