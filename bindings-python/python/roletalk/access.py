"""Who is at the other end of a connection."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Union

from . import _engine

__all__ = ["Authenticate", "Certificate", "Identity", "UpgradeRequest"]

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Certificate:
    """The certificate that the other end has shown. TLS has verified it, unless verification was switched
    off."""

    subject: str
    """The subject as RFC 4514 writes it, such as ``CN=billing,O=Example``; empty when it has none."""
    names: tuple[str, ...]
    """Its subject alternative names, each with its type: ``dns:a.example``, ``uri:spiffe://prod/a``,
    ``ip:10.0.0.1``, ``email:a@example.org``. Others are left out."""
    fingerprint: str
    """SHA-256 of the whole certificate, 64 lowercase hexadecimal digits."""
    expires: int
    """When it expires, in seconds since 1970."""

    @staticmethod
    def _of(told: dict[str, Any] | None) -> Certificate | None:
        if told is None:
            return None
        return Certificate(**{**told, "names": tuple(told["names"])})

    @staticmethod
    def _of_der(der: bytes | None) -> Certificate | None:
        # One that cannot be read counts as none, as it does in the engine.
        told = None if der is None else _engine.certificate(der)
        return None if told is None else Certificate._of(json.loads(told))


@dataclass(frozen=True)
class Identity:
    """Who is at the other end of a connection: what it has shown, beside what it says of itself."""

    key: str | None = None
    """The id of the preshared key that it has proved; None when this peer asks for no proof."""
    peer: str | None = None
    """The name of its own key, when it has proved that its id belongs to that: ``key-`` and 40 hexadecimal
    digits, the same after each of its restarts."""
    certificate: Certificate | None = None
    """Its certificate."""
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What ``authenticate`` has said when the connection was accepted."""
    address: str | None = None
    """Where the connection comes from or leads to: IP address and port."""
    headers: Pairs = field(default=(), repr=False)
    """The headers of its upgrade that were to be kept (``identity_headers``), names in lower case, each with
    its value."""
    dialed: bool = False
    """Whether this peer has dialed it."""

    def header(self, name: str) -> str | None:
        """A header that was kept.

        Args:
            name: Its name, in lower or upper case.

        Returns:
            Its first value; None when there is none.
        """
        return _header(self.headers, name)

    @staticmethod
    def _of(told: dict[str, Any]) -> Identity:
        return Identity(
            key=told["key"],
            peer=told["peer"],
            certificate=Certificate._of(told["certificate"]),
            claims=told["claims"],
            address=told["address"],
            headers=tuple((name, value) for name, value in told["headers"]),
            dialed=told["dialed"],
        )


@dataclass(frozen=True)
class UpgradeRequest:
    """A request for an upgrade, which ``authenticate`` of the peer judges."""

    path: str
    """The path that is asked for, without the query."""
    headers: Pairs = field(repr=False)
    """The headers, such as ``authorization``: names in lower case, each with its value. They may be
    secrets."""
    address: str | None = None
    """Where the connection comes from: IP address and port; None for a Unix socket."""
    certificate: Certificate | None = None
    """The certificate that was shown, which TLS has verified."""

    def header(self, name: str) -> str | None:
        """A header.

        Args:
            name: Its name, in lower or upper case.

        Returns:
            Its first value; None when there is none.
        """
        return _header(self.headers, name)

    @property
    def bearer(self) -> str | None:
        """The token of an ``Authorization: Bearer`` header; None when there is none."""
        scheme, _, token = (self.header("authorization") or "").partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None


Authenticate = Callable[[UpgradeRequest], Union[Mapping[str, Any], Awaitable[Mapping[str, Any]]]]
"""A function that judges upgrades, see ``Peer``."""


def _header(headers: Pairs, name: str) -> str | None:
    name = name.lower()
    return next((value for known, value in headers if known == name), None)


def claims_text(claims: Any) -> str:
    """Claims as JSON. Raises ``TypeError`` and ``ValueError`` for anything else."""
    # None as well: a function that has forgotten to return something has let nobody in.
    if not isinstance(claims, Mapping):
        kind = type(claims).__name__
        raise TypeError(f"authenticate must return claims, a mapping such as {{}}, not {kind}")
    return json.dumps(dict(claims), allow_nan=False)
