"""The player of player.rs, which describes its lines, with the Python package."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Awaitable, Callable, Dict

import roletalk

ANSWER = 10.0
"""Seconds."""

PIECE = 64 << 10


class Player:
    """A peer, and the commands: the methods named ``do_…``."""

    def __init__(self, peer: roletalk.Peer, directory: Path) -> None:
        self.peer = peer
        self.directory = directory

    async def perform(self, line: str) -> None:
        command, *words = line.split(" ")
        try:
            do: Callable[..., Awaitable[object]] = getattr(self, f"do_{command}")
            print(f"ok {await do(*words) or ''}".rstrip(), flush=True)
        except roletalk.Error as error:
            print(f"error {error.kind} {error}", flush=True)
        except Exception as error:
            print(f"error OTHER {error}", flush=True)

    async def do_listen(self, port: str) -> str:
        return (await self.peer.listen("127.0.0.1", int(port))).url

    async def do_connect(self, url: str) -> str:
        return (await self.peer.connect(url)).name

    async def do_disable(self, role: str) -> None:
        self.peer.role(role).disable()

    async def do_enable(self, role: str) -> None:
        self.peer.role(role).enable()

    async def do_use(self, role: str) -> None:
        self.peer.destination(role)

    async def do_square(self, role: str, count: str) -> str:
        destination = self.peer.destination(role)
        numbers = range(1, int(count) + 1)
        before = self._asked(destination)
        answers = await asyncio.gather(
            *(destination.request("square", number, timeout=ANSWER) for number in numbers)
        )
        for number, answer in zip(numbers, answers):
            if answer != number * number:
                raise ValueError(f"{number} squared is not {answer}")
        tally = Counter(self._asked(destination))
        tally.subtract(before)
        return " ".join(f"{name}={tally[name]}" for name in sorted(tally) if tally[name])

    def _asked(self, destination: roletalk.Destination) -> Dict[str, int]:
        """How many requests each unit was sent so far."""
        return {unit.name: unit.stats().requests_sent for unit in destination.units}

    async def do_broadcast(self, role: str, text: str) -> int:
        return await self.peer.destination(role).broadcast("note", text)

    async def do_survey(self, role: str) -> str:
        answers = await self.peer.destination(role).survey("name", timeout=ANSWER).all()
        return " ".join(sorted(answer.result() for answer in answers))

    async def do_upload(self, role: str, name: str, file: str) -> int:
        destination = self.peer.destination(role)
        with open(self._path(file), "rb") as source:
            async with destination.writable("upload", file, to=_named(destination, name)) as stream:
                while piece := source.read(PIECE):
                    await stream.write(piece)
                return source.tell()

    async def do_download(self, role: str, name: str, file: str) -> int:
        destination = self.peer.destination(role)
        with open(self._path(file), "wb") as target:
            async with destination.readable("download", file, to=_named(destination, name)) as stream:
                async for piece in stream:
                    target.write(piece)
            return target.tell()

    async def do_close(self) -> None:
        await self.peer.close()

    async def do_offer(self, role: str) -> None:
        offered = self.peer.role(role, active=False)

        @offered.on_request("square")
        async def square(ctx: roletalk.Context) -> int:
            return int(ctx.data * ctx.data)

        @offered.on_request("name", inline=True)
        def name(ctx: roletalk.Context) -> str:
            return self.peer.name

        @offered.on_message("note", inline=True)
        def note(ctx: roletalk.Context) -> None:
            print(f"event note {ctx.unit.name} {ctx.data}", flush=True)

        @offered.on_readable("upload")
        async def upload(ctx: roletalk.Context) -> None:
            with open(self._path(ctx.data), "wb") as target:
                async for piece in ctx.accept():
                    target.write(piece)
                size = target.tell()
            print(f"event stored {ctx.unit.name} {ctx.data} {size}", flush=True)

        @offered.on_writable("download")
        async def download(ctx: roletalk.Context) -> None:
            try:
                source = open(self._path(ctx.data), "rb")
            except (OSError, ValueError) as error:
                raise roletalk.RejectedError(str(error)) from error
            with source:
                async with ctx.accept() as stream:
                    while piece := source.read(PIECE):
                        await stream.write(piece)

        offered.enable()

    def _path(self, name: str) -> Path:
        """A file of the directory. Its name may come from another peer."""
        if not name or name.startswith(".") or any(char in name for char in "/\\: "):
            raise ValueError("that is not the name of a file here")
        return self.directory / name


def _named(destination: roletalk.Destination, name: str) -> roletalk.Unit:
    for unit in destination.units:
        if unit.name == name:
            return unit
    raise LookupError(f"{name} does not serve {destination.name}")


def tell_events(peer: roletalk.Peer) -> None:
    def tell(text: str) -> None:
        print(f"event {text}", flush=True)

    @peer.on(roletalk.UnitOpened)
    def met(event: roletalk.UnitOpened) -> None:
        tell(f"met {event.unit.name}")

    @peer.on(roletalk.UnitClosed)
    def parted(event: roletalk.UnitClosed) -> None:
        tell(f"parted {event.unit.name}")

    @peer.on(roletalk.DestinationGained)
    def gained(event: roletalk.DestinationGained) -> None:
        tell(f"gained {event.role} {event.unit.name}")

    @peer.on(roletalk.DestinationLost)
    def lost(event: roletalk.DestinationLost) -> None:
        tell(f"lost {event.role} {event.unit.name}")

    @peer.on(roletalk.ReconnectSucceeded)
    def reconnected(event: roletalk.ReconnectSucceeded) -> None:
        tell(f"reconnected {event.unit.name}")


async def main(name: str, directory: Path) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    async with roletalk.Peer(name, keys={"demo": os.environ["ROLETALK_DEMO_KEY"]}) as peer:
        tell_events(peer)
        player = Player(peer, directory)
        while line := (await lines.readline()).decode().rstrip("\n"):
            await player.perform(line)
            if line == "close":
                break


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--player", nargs=2, metavar=("NAME", "DIRECTORY"), required=True)
name, directory = parser.parse_args().player
asyncio.run(main(name, Path(directory)))
