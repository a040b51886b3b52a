"""Brokerless, peer-to-peer messaging between services, over WebSocket.

Processes connect in any direction, learn each other's roles by themselves, and talk: one-way messages,
requests, binary streams, broadcast, survey; load-balanced over the units that serve a role. The wire is
that of the npm package ``roletalk`` 1.1.3 and of ``roletalk-go``. ::

    import asyncio, roletalk

    async def main():
        async with roletalk.Peer(name="worker") as peer:
            math = peer.role("math")

            @math.on_request("add")
            async def add(ctx):
                return ctx.data["a"] + ctx.data["b"]

            await peer.listen("127.0.0.1", 9000)
            await peer.serve()

    asyncio.run(main())

Start with ``help(roletalk.Peer)``; ``roletalk.sync`` is the same without ``await``. The package logs
through ``logging``, as ``roletalk``.
"""

from ._engine import Context, __version__
from ._headers import Answer, Headers
from .access import Authenticate, Certificate, Identity, UpgradeRequest
from .balance import Balance, Candidate, Ejection, Retry, Standing
from .codec import Codec, JsonCodec, OrjsonCodec
from .destination import Destination, Survey, UnitAnswer
from .errors import (
    AuthRefusedError,
    CancelledError,
    ClosedError,
    ConnectFailedError,
    ConnectionLostError,
    DataError,
    DeniedError,
    Error,
    HandlerError,
    HandlerFailedError,
    HandlerPanickedError,
    HeartbeatTimeoutError,
    InvalidArgumentError,
    IoError,
    NoUnitError,
    OverloadedError,
    ProtocolError,
    RejectedError,
    StreamClosedError,
    TimeoutError,
    TlsError,
    TooLargeError,
    UnsupportedError,
)
from .events import (
    AcceptFailed,
    AuthRefused,
    BadInput,
    ConnectionClosed,
    Denied,
    DestinationClosed,
    DestinationGained,
    DestinationLost,
    DestinationOpened,
    Event,
    Events,
    HandlerFailed,
    Missed,
    PolicyFailed,
    PolicyLoaded,
    ReconnectFailed,
    ReconnectSucceeded,
    SlowConsumer,
    TlsReloaded,
    TlsReloadFailed,
    UnitClosed,
    UnitEjected,
    UnitOpened,
    UnitRestored,
)
from .limits import Limits
from .peer import Listener, Peer
from .role import Middleware, Next, Role
from .stats import ConnectionStats, PeerStats, UnitStats
from .streams import Readable, Writable
from .tls import TlsFiles
from .unit import Unit

__all__ = [
    "AcceptFailed",
    "Answer",
    "AuthRefused",
    "AuthRefusedError",
    "Authenticate",
    "BadInput",
    "Balance",
    "CancelledError",
    "Candidate",
    "Certificate",
    "ClosedError",
    "Codec",
    "ConnectFailedError",
    "ConnectionClosed",
    "ConnectionLostError",
    "ConnectionStats",
    "Context",
    "DataError",
    "Denied",
    "DeniedError",
    "Destination",
    "DestinationClosed",
    "DestinationGained",
    "DestinationLost",
    "DestinationOpened",
    "Ejection",
    "Error",
    "Event",
    "Events",
    "HandlerError",
    "HandlerFailed",
    "HandlerFailedError",
    "HandlerPanickedError",
    "Headers",
    "HeartbeatTimeoutError",
    "Identity",
    "InvalidArgumentError",
    "IoError",
    "JsonCodec",
    "Limits",
    "Listener",
    "Middleware",
    "Missed",
    "Next",
    "NoUnitError",
    "OrjsonCodec",
    "OverloadedError",
    "Peer",
    "PeerStats",
    "PolicyFailed",
    "PolicyLoaded",
    "ProtocolError",
    "Readable",
    "ReconnectFailed",
    "ReconnectSucceeded",
    "RejectedError",
    "Retry",
    "Role",
    "SlowConsumer",
    "Standing",
    "StreamClosedError",
    "Survey",
    "TimeoutError",
    "TlsError",
    "TlsFiles",
    "TlsReloadFailed",
    "TlsReloaded",
    "TooLargeError",
    "Unit",
    "UnitAnswer",
    "UnitClosed",
    "UnitEjected",
    "UnitOpened",
    "UnitRestored",
    "UnitStats",
    "UnsupportedError",
    "UpgradeRequest",
    "Writable",
    "__version__",
]
