"""Exceptions: one class for each kind of error of the engine."""

from __future__ import annotations

import asyncio
import builtins
from typing import Any, ClassVar

from . import _checks
from ._engine import ERROR_KINDS
from ._headers import NO_HEADERS, Headers

__all__ = [
    "AuthRefusedError",
    "CancelledError",
    "ClosedError",
    "ConnectFailedError",
    "ConnectionLostError",
    "DataError",
    "DeniedError",
    "Error",
    "HandlerError",
    "HandlerFailedError",
    "HandlerPanickedError",
    "HeartbeatTimeoutError",
    "InvalidArgumentError",
    "IoError",
    "NoUnitError",
    "OverloadedError",
    "ProtocolError",
    "RejectedError",
    "StreamClosedError",
    "TimeoutError",
    "TlsError",
    "TooLargeError",
    "UnsupportedError",
]


class Error(Exception):
    """The base of all errors of this package. ``str(error)`` is a text for people.

    Where the npm package ``roletalk`` 1.1.3 has a text for the same situation, it is the same.
    """

    kind: ClassVar[str] = ""
    """The kind's fixed name, such as ``"NO_UNIT"``."""

    number: ClassVar[int] = 0
    """The kind's fixed number, the same in every language."""

    hint: str | None = None
    """What there is to know besides the text, and what to try: for people, in English. Tracebacks show it
    from Python 3.11 on."""

    def _set_hint(self, hint: str) -> None:
        self.hint = hint
        add_note = getattr(self, "add_note", None)
        if add_note is not None:
            add_note(f"hint: {hint}")

    def _set_failure(
        self, code: str | None, data: Any, retry_after: float | None, unhandled: bool
    ) -> None:
        """What a handler has said of its failure: for errors that have that."""


class InvalidArgumentError(Error, ValueError):
    """An argument is not usable: a name that is too long, an address that does not parse."""

    kind = "INVALID_ARGUMENT"


class ClosedError(Error):
    """The peer was closed, or belongs to the parent process of a fork."""

    kind = "CLOSED"


class NoUnitError(Error, LookupError):
    """No connected unit serves the role."""

    kind = "NO_UNIT"


class TimeoutError(Error, builtins.TimeoutError):
    """The answer did not come in time."""

    kind = "TIMEOUT"


class RejectedError(Error):
    """The remote peer rejected the request or refused the stream; the text is its own.

    A handler that raises it rejects its request with this text, and nothing is logged. ``HandlerError`` says
    more than a text.
    """

    kind = "REJECTED"

    code: str | None = None
    """What the handler calls the failure, for programs, such as ``"NOT_FOUND"``; None when it says none."""

    data: Any = None
    """What the handler says of the failure besides."""

    retry_after: float | None = None
    """Seconds after which it is worth trying again; None when the handler says nothing."""

    unhandled: bool = False
    """Whether surely no handler has begun, so that the request may be sent elsewhere. False says nothing:
    it may be a peer that does not tell."""

    headers: Headers = NO_HEADERS
    """The headers that the handler has set."""

    def _set_hint(self, hint: str) -> None:
        # No note: the text is the handler's, and is compared.
        self.hint = hint

    def _set_failure(
        self, code: str | None, data: Any, retry_after: float | None, unhandled: bool
    ) -> None:
        self.code = code
        self.data = data
        self.retry_after = retry_after
        self.unhandled = unhandled


class HandlerError(RejectedError):
    """For handlers to raise: rejects the request with a text, and with a code and data for programs. ::

        raise roletalk.HandlerError("there is no such order", code="NOT_FOUND", data={"order": 7})

    The requester gets a ``RejectedError`` that has the same. Of other exceptions only the text is sent, also
    of a ``RejectedError`` that came from another peer: what it says is not passed on unasked. It is not
    logged. Peers that do not know of codes, such as the originals, get the text.

    Args:
        text: For people.
        code: For programs.
        data: Anything that the peer's codec makes JSON of. Code and data have at most 8 KiB as JSON; where
            they cannot be sent, that is logged, and the text is sent without them.
        retry_after: Seconds after which it is worth trying again.

    Raises:
        TypeError: When one of them is of another type.
        ValueError: When ``retry_after`` is negative.
    """

    def __init__(
        self,
        text: str = "",
        *,
        code: str | None = None,
        data: Any = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        _checks.instance("code", code, (str, type(None)), "a str")
        if retry_after is not None:
            _checks.instance("retry_after", retry_after, (int, float), "a number of seconds")
            if not retry_after >= 0:
                raise ValueError("retry_after must not be negative")
        self.code = code
        self.data = data
        self.retry_after = retry_after


class ConnectionLostError(Error, ConnectionError):
    """The unit's last connection, or the stream's connection, was lost."""

    kind = "CONNECTION_LOST"

    unhandled: bool = False
    """Whether surely no handler has begun: the request was not sent, or the unit has said so. False says
    nothing."""


class OverloadedError(Error):
    """A bound was reached: waiting requests, open streams, units."""

    kind = "OVERLOADED"


class TooLargeError(Error, ValueError):
    """The message is larger than the limit."""

    kind = "TOO_LARGE"


class AuthRefusedError(Error):
    """One side did not accept the other's preshared key, or broke the handshake."""

    kind = "AUTH_REFUSED"


class DeniedError(AuthRefusedError):
    """For ``authenticate`` of a peer to raise: refuses an upgrade. ::

        raise roletalk.DeniedError(401, "no token")

    Args:
        status: The HTTP status that the other side gets, from 400 to 599.
        reason: Why, for this side's log and events. The other side is not told.

    Raises:
        TypeError: When one of them is of another type.
        ValueError: For another status.
    """

    status: int
    """The HTTP status that the other side gets."""

    reason: str
    """Why, for this side's log and events."""

    def __init__(self, status: int = 403, reason: str = "") -> None:
        _checks.instance("status", status, int, "an int")
        _checks.instance("reason", reason, str, "a str")
        if not 400 <= status <= 599:
            raise ValueError("status must be that of a refusal, from 400 to 599")
        super().__init__(reason or f"status {status}")
        self.status = status
        self.reason = reason


class ConnectFailedError(Error, ConnectionError):
    """The address could not be dialed: name, TCP, TLS or upgrade."""

    kind = "CONNECT_FAILED"


class ProtocolError(Error):
    """The remote peer sent something that the protocol does not allow."""

    kind = "PROTOCOL"


class StreamClosedError(Error):
    """The stream was ended, or broken off by the other end."""

    kind = "STREAM_CLOSED"


class DataError(Error, ValueError):
    """A value cannot be sent, or what came cannot be read."""

    kind = "DATA"


class IoError(Error, OSError):
    """An operation of the operating system failed."""

    kind = "IO"


class TlsError(Error):
    """Certificates, keys or TLS settings are not usable."""

    kind = "TLS"


class HandlerPanickedError(Error):
    """A handler died. Handlers in Python raise instead."""

    kind = "HANDLER_PANICKED"


class HandlerFailedError(Error):
    """A handler has raised; ``__cause__`` is what."""

    kind = "HANDLER_FAILED"


class HeartbeatTimeoutError(Error, builtins.TimeoutError):
    """The remote peer did not answer a ping in time."""

    kind = "HEARTBEAT_TIMEOUT"


class UnsupportedError(Error):
    """The unit does not take what the caller requires, such as headers."""

    kind = "UNSUPPORTED"


class CancelledError(Error, asyncio.CancelledError):
    """A request was given up together with the one that it was made for, see ``inherit`` of
    ``Destination.request``.

    It is an ``asyncio.CancelledError`` as well: a task that ends with it counts as cancelled.
    """

    kind = "CANCELLED"


ENDS_PROGRAM = (KeyboardInterrupt, SystemExit)
"""What ends the program when it is raised in the loop, whatever that was doing."""


def reason_of(error: BaseException) -> str:
    """What the other end is told of an error of this one."""
    if isinstance(error, asyncio.CancelledError):
        return "The handler was cancelled"
    try:
        text = str(error)
    except ENDS_PROGRAM:
        raise
    except BaseException:
        text = ""
    # Who rejects in so many words may have none.
    return text if text or isinstance(error, RejectedError) else type(error).__name__


_BY_KIND = {known.kind: known for known in Error.__subclasses__()}

CLASSES: dict[int, type[Error]] = {number: _BY_KIND[kind] for number, kind in ERROR_KINDS}
"""Every class by its number: one for each kind of the engine's."""

for _number, _class in CLASSES.items():
    _class.number = _number
