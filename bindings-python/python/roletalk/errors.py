"""Exceptions: one class for each kind of error of the engine."""

from __future__ import annotations

import asyncio
import builtins
from typing import ClassVar, Optional

from ._engine import ERROR_KINDS

__all__ = [
    "AuthRefusedError",
    "ClosedError",
    "ConnectFailedError",
    "ConnectionLostError",
    "DataError",
    "Error",
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
]


class Error(Exception):
    """The base of all errors of this package. ``str(error)`` is a text for people.

    Where the npm package ``roletalk`` 1.1.3 has a text for the same situation, it is the same.
    """

    kind: ClassVar[str] = ""
    """The kind's fixed name, such as ``"NO_UNIT"``."""

    code: ClassVar[int] = 0
    """The kind's fixed number, the same in every language."""

    hint: Optional[str] = None
    """What there is to know besides the text, and what to try: for people, in English. Tracebacks show it
    from Python 3.11 on."""

    def _set_hint(self, hint: str) -> None:
        self.hint = hint
        add_note = getattr(self, "add_note", None)
        if add_note is not None:
            add_note(f"hint: {hint}")


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

    A handler that raises it rejects its request with this text, and nothing is logged.
    """

    kind = "REJECTED"

    def _set_hint(self, hint: str) -> None:
        # No note: the text is the handler's, and is compared.
        self.hint = hint


class ConnectionLostError(Error, ConnectionError):
    """The unit's last connection, or the stream's connection, was lost."""

    kind = "CONNECTION_LOST"


class OverloadedError(Error):
    """A bound was reached: waiting requests, open streams, units."""

    kind = "OVERLOADED"


class TooLargeError(Error, ValueError):
    """The message is larger than the limit."""

    kind = "TOO_LARGE"


class AuthRefusedError(Error):
    """One side did not accept the other's preshared key, or broke the handshake."""

    kind = "AUTH_REFUSED"


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

CLASSES: dict[int, type[Error]] = {code: _BY_KIND[kind] for code, kind in ERROR_KINDS}
"""Every class by its number: one for each kind of the engine's."""

for _code, _class in CLASSES.items():
    _class.code = _code
