"""Where the policy of a peer comes from."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Union

from . import _engine, events
from .errors import Error, InvalidArgumentError, reason_of

if TYPE_CHECKING:
    from ._host import Host

Given = Union[Mapping[str, Any], str, None]

EVERY = 0.5
"""Seconds after which a file is looked at again."""


def parsed(policy: Given) -> _engine.Policy | None:
    """Parses a policy. Raises ``InvalidArgumentError`` and ``TypeError`` for anything else."""
    if policy is None:
        return None
    if isinstance(policy, Mapping):
        try:
            policy = json.dumps(dict(policy))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgumentError(f"The policy cannot be written as JSON: {error}") from error
    if not isinstance(policy, str):
        kind = type(policy).__name__
        raise TypeError(f"policy must be a mapping, JSON as a str, or None, not {kind}")
    return _engine.Policy(policy)


class PolicySource:
    """Sets the policy of a peer, and watches a file."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watching: asyncio.Task[None] | None = None

    def set(self, policy: Given) -> None:
        """Sets the policy; a file is watched no more."""
        self._take(parsed(policy))

    async def watch(self, path: str | os.PathLike[str]) -> None:
        """Takes the policy from a file, and again after each change of it."""
        name = os.fsdecode(path)
        file = _engine.PolicyFile(name)
        policy = file.read(*await self._read(name))
        self._host.check_open()
        assert policy is not None
        self._take(policy)
        self._watching = self._host.start(self._watch(file, name))
        self._watching.set_name("roletalk policy")

    def _take(self, policy: _engine.Policy | None) -> None:
        self._host.engine.set_policy(policy)
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()

    async def _read(self, name: str) -> tuple[str | None, str]:
        return await self._host.loop.run_in_executor(None, _text_of, name)

    async def _watch(self, file: _engine.PolicyFile, name: str) -> None:
        while True:
            await asyncio.sleep(EVERY)
            read = await self._read(name)
            try:
                policy = file.read(*read)
            except Error as error:
                self._host.emit(events.PolicyFailed(name, error))
                continue
            if policy is not None:
                self._host.engine.set_policy(policy)
                self._host.emit(events.PolicyLoaded(name))


def _text_of(name: str) -> tuple[str | None, str]:
    """The text of a file, or why it cannot be read."""
    try:
        with open(name, encoding="utf-8") as file:
            return file.read(), ""
    except (OSError, ValueError) as error:
        return None, getattr(error, "strerror", None) or reason_of(error)
