"""The parts of `roletalk` that are in Rust."""

import asyncio
import contextvars
import socket
from collections.abc import Mapping
from typing import Any, Callable, Literal, final

from typing_extensions import Buffer, disjoint_base

from ._headers import Answer, Headers, HeadersLike
from .balance import Balance as _Strategy
from .errors import ClosedError
from .unit import Unit

__all__ = [
    "CONNECTION_COUNTERS",
    "CURRENT_CALL",
    "ERROR_KINDS",
    "LIMITS",
    "OTHER_THREAD",
    "OWNS_SOCKETS",
    "UNIT_COUNTERS",
    "Balance",
    "Call",
    "Candidate",
    "Context",
    "DestinationBase",
    "Ejection",
    "Encoded",
    "Engine",
    "Extras",
    "Policy",
    "PolicyFile",
    "Retry",
    "__version__",
    "bytes_of",
    "certificate",
    "current_call",
    "exiting",
    "forked",
    "listen_hint",
    "peer_closed",
    "printable",
    "validity",
]

__version__: str
ERROR_KINDS: list[tuple[int, str]]
# Names, and what they are numbers of: "count", "bytes" or "seconds". Limits with their defaults.
LIMITS: list[tuple[str, str, int | float]]
UNIT_COUNTERS: list[tuple[str, str]]
CONNECTION_COUNTERS: list[tuple[str, str]]
OTHER_THREAD: str
# What is being handled.
CURRENT_CALL: contextvars.ContextVar[Call | None]
OWNS_SOCKETS: bool

# What a transport knows of its other end: the address, its certificate, and that which the listener has
# shown.
_Shown = tuple[str | None, bytes | None, bytes | None, bool]

def bytes_of(value: Buffer) -> bytes: ...
def certificate(der: bytes) -> str | None: ...
def current_call() -> Call | None: ...
def exiting() -> None: ...
def forked() -> None: ...
def peer_closed() -> ClosedError: ...
def validity(der: bytes) -> tuple[float, float]: ...
def printable(text: str) -> str: ...
def listen_hint(address: str, errno: int) -> str | None: ...

@final
class Context:
    @property
    def kind(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def data(self) -> Any: ...
    @property
    def unit(self) -> Unit: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def remaining(self) -> float | None: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def traceparent(self) -> str | None: ...
    @property
    def tracestate(self) -> str | None: ...
    @property
    def baggage(self) -> str | None: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def cancel_reason(self) -> Literal["requester", "deadline", "unit_lost"] | None: ...
    def set_header(self, name: str, value: str | Buffer) -> None: ...
    def with_data(self, data: Any) -> Context: ...
    def accept(self, data: Any = None, /) -> Any: ...

@final
class Call: ...

@final
class Extras:
    def __new__(
        cls,
        headers: HeadersLike | None,
        required: bool,
        traceparent: str | None,
        tracestate: str | None,
        baggage: str | None,
        /,
    ) -> Extras: ...
    @property
    def required(self) -> bool: ...

@final
class Balance: ...

@final
class Candidate:
    def __new__(cls, unit: Unit, waiting: int = 0, answer_time: float = 0.0) -> Candidate: ...
    @property
    def unit(self) -> Unit: ...
    @property
    def waiting(self) -> int: ...
    @property
    def answer_time(self) -> float: ...

@final
class Ejection:
    def __new__(
        cls,
        *,
        failures: int | None = None,
        rejections: bool | None = None,
        time: float | None = None,
        most: float | None = None,
    ) -> Ejection: ...
    @property
    def failures(self) -> int: ...
    @property
    def rejections(self) -> bool: ...
    @property
    def time(self) -> float: ...
    @property
    def most(self) -> float: ...

@final
class Retry:
    def __new__(
        cls,
        *,
        attempts: int | None = None,
        backoff: float | None = None,
        longest: float | None = None,
        budget: float | None = None,
        hedge_after: float | None = None,
        hedge_quantile: float | None = None,
    ) -> Retry: ...
    @property
    def retried(self) -> int: ...
    @property
    def hedged(self) -> int: ...
    @property
    def refused(self) -> int: ...

@final
class Encoded: ...

@final
class Policy:
    def __new__(cls, text: str) -> Policy: ...

@final
class PolicyFile:
    def __new__(cls, path: str) -> PolicyFile: ...
    def read(self, text: str | None, reason: str = "", /) -> Policy | None: ...

@disjoint_base
class DestinationBase:
    def __new__(cls, engine: Engine, name: str) -> DestinationBase: ...
    @property
    def name(self) -> str: ...
    def request(
        self,
        event: str,
        data: Any = None,
        *,
        to: Unit | None = None,
        timeout: float | None = None,
        ordered: bool = True,
        headers: HeadersLike | None = None,
        headers_required: bool = False,
        traceparent: str | None = None,
        tracestate: str | None = None,
        baggage: str | None = None,
        inherit: bool = True,
        wait_for_unit: bool | None = None,
        balance: _Strategy | None = None,
        prefer: Mapping[str, str] | None = None,
        key: str | bytes | None = None,
        retry: Retry | Literal[False] | None = None,
    ) -> asyncio.Future[Any]: ...
    def call(
        self,
        event: str,
        data: Any = None,
        *,
        to: Unit | None = None,
        timeout: float | None = None,
        ordered: bool = True,
        headers: HeadersLike | None = None,
        headers_required: bool = False,
        traceparent: str | None = None,
        tracestate: str | None = None,
        baggage: str | None = None,
        inherit: bool = True,
        wait_for_unit: bool | None = None,
        balance: _Strategy | None = None,
        prefer: Mapping[str, str] | None = None,
        key: str | bytes | None = None,
        retry: Retry | Literal[False] | None = None,
    ) -> asyncio.Future[Answer]: ...
    def _ask_unit(
        self,
        event: str,
        data: Any,
        to: Unit,
        timeout: float | None,
        extras: Extras | None,
        call: Call | None,
    ) -> asyncio.Future[Answer]: ...
    def _open_stream(
        self,
        event: str,
        data: Any,
        unit: int | None,
        chosen: bool,
        timeout: float | None,
        writable: bool,
        extras: Extras | None,
        inherit: bool,
        waits: bool,
        balance: Balance | None,
    ) -> asyncio.Future[tuple[int, int, Answer]]: ...
    def _try_send(
        self,
        event: str,
        data: Any,
        unit: int | None,
        chosen: bool,
        ordered: bool,
        extras: Extras | None,
        inherit: bool,
        balance: Balance | None,
    ) -> tuple[int, Encoded] | None: ...
    def _number_of(self, unit: Unit) -> int: ...
    def _next(self, required: bool, balance: Balance | None) -> int: ...
    def _balance(
        self,
        balance: _Strategy | None,
        prefer: Mapping[str, str] | None,
        key: str | bytes | None,
    ) -> Balance: ...
    def _set(
        self,
        balance: _Strategy | None,
        prefer: Mapping[str, str] | None,
        eject: bool | Ejection | None,
        max_in_flight: float | None,
        retry: Retry | Literal[False] | None,
    ) -> None: ...
    def _standings(self) -> list[tuple[Unit, int, float, int, int, float | None]]: ...
    @property
    def _waits(self) -> bool: ...
    @_waits.setter
    def _waits(self, value: bool) -> None: ...

@final
class Engine:
    def __new__(
        cls,
        *,
        name: str,
        tags: list[tuple[str, str]],
        friendly: bool,
        keys: list[tuple[str, str]],
        channel_binding: str,
        peer_key: bytes | None,
        policy: Policy | None,
        origins: list[str],
        identity_headers: list[str],
        authenticates: bool,
        limits: dict[str, Any],
        reconnect: tuple[float, float],
        balance: _Strategy,
        eject: bool | Ejection | None,
        runtime: str,
        dumps: Callable[[Any], Any],
        loads: Callable[[bytes], Any],
        acquaintance: tuple[str | None, str | None] = ...,
        extensions: bool = True,
    ) -> Engine: ...
    def bind(
        self,
        *,
        call_soon: Callable[..., Any],
        call_later: Callable[..., Any],
        create_future: Callable[[], Any],
        time: Callable[[], float],
        copy_context: Callable[[], contextvars.Context],
        listener: object,
        spawn: Callable[..., Any],
        run: Callable[..., Any],
        call_inheriting: Callable[..., Any],
    ) -> None: ...
    def unbind(self) -> None: ...
    def abandon(self) -> None: ...
    def guard(self, check: Callable[[], Callable[[], None] | None]) -> int: ...
    def awake(self) -> None: ...
    def flush(self) -> None: ...
    def timeout(self) -> None: ...
    def given_up(self, future: asyncio.Future[Any]) -> None: ...
    def give_up(self, tag: int, serial: int, error: BaseException) -> None: ...
    def readable(self, conn: int) -> None: ...
    def writable(self, conn: int) -> None: ...
    def feed(self, conn: int, bytes: bytes) -> None: ...
    def written(self, conn: int) -> None: ...
    def writing(self, conn: int) -> None: ...
    def lost(self, conn: int, reason: str = "") -> None: ...
    def release(self, conn: int) -> None: ...
    @property
    def id(self) -> str: ...
    def set_tag(self, key: str, value: str) -> None: ...
    def tags(self) -> list[tuple[str, str]]: ...
    def add_key(self, id: str, key: str) -> None: ...
    def remove_key(self, id: str) -> bool: ...
    def set_policy(self, policy: Policy | None) -> None: ...
    def add_role(self, name: str, active: bool) -> None: ...
    def set_role_active(self, name: str, active: bool) -> None: ...
    def is_role_active(self, name: str) -> bool: ...
    def set_handler(
        self,
        role: str,
        kind: str,
        event: str,
        function: Callable[[Context], Any],
        mode: str,
        detached: bool,
    ) -> None: ...
    def add_destination(self, role: str) -> None: ...
    def destination_units(self, role: str) -> list[Unit]: ...
    def units(self) -> list[Unit]: ...
    def is_open(self, unit: int) -> bool: ...
    def close_unit(self, unit: int) -> None: ...
    def close(self) -> None: ...
    def connect(self, url: str, permanent: bool, headers: list[tuple[str, str]]) -> int: ...
    def forget_url(self, url: str) -> list[int]: ...
    def is_dialed(self, address: int) -> bool: ...
    def no_unit_hint(self, role: str) -> str: ...
    def admit_found(self, address: int, found: list[str]) -> list[str]: ...
    def addresses_ignored(self) -> int: ...
    def dial_failed(self, address: int, reason: str, code: str, errno: int | None) -> None: ...
    def dialed(
        self,
        address: int,
        url: str,
        headers: list[tuple[str, str]],
        socket: socket.socket | None,
        shown: _Shown | None = None,
    ) -> int: ...
    def enter(self, address: str | None) -> int: ...
    def left(self, place: int) -> None: ...
    def accept_pause(self) -> float: ...
    def accept_failed(self, reason: str) -> None: ...
    def accepted(
        self,
        path: str | None,
        place: int | None,
        socket: socket.socket | None,
        shown: _Shown | None = None,
    ) -> int: ...
    def allow_upgrade(self, conn: int, claims: str) -> None: ...
    def deny_upgrade(self, conn: int, status: int, reason: str) -> None: ...
    def answer(self, context: Context, value: Any) -> None: ...
    def fail(
        self,
        context: Context,
        reason: str,
        failure: tuple[str | None, Any, float | None] | None = None,
    ) -> None: ...
    def sizes(self) -> dict[str, int]: ...
    def tasks(self) -> list[asyncio.Task[Any]]: ...
    def drain(self) -> None: ...
    def wait_room(self, unit: int) -> asyncio.Future[None]: ...
    def read_stream(self, unit: int, stream: int) -> bytes | None: ...
    def write_stream(self, unit: int, stream: int, bytes: bytes, offset: int) -> int: ...
    def finish_stream(self, unit: int, stream: int) -> bool: ...
    def close_stream(self, unit: int, stream: int, reason: str) -> None: ...
    def wait_stream(self, unit: int, stream: int) -> asyncio.Future[None]: ...
    def unit_stats(self, unit: int) -> dict[str, Any] | None: ...
    def stats(self) -> tuple[int, int]: ...
