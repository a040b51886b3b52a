"""Which unit gets what is sent: in turn, by load, by key, by tag, or as a function says."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

import roletalk
from roletalk import Candidate, Context, InvalidArgumentError, NoUnitError, Unit

from .conftest import LIMIT, is_clean, patient, until
from .test_cancel import Handlers
from .test_routing import a_peer, join, ways

PLACEMENT = Path(__file__).parents[2] / "tests/data/key-placement.txt"
STRATEGIES = ["round_robin", "least_loaded"]
MANY = 64
"""As many requests are under way."""
Chooses = Callable[[Sequence[Candidate]], Optional[Unit]]


@pytest.fixture
async def peers() -> AsyncIterator[list[roletalk.Peer]]:
    """Peers to be closed at the end."""
    made: list[roletalk.Peer] = []
    yield made
    for peer in made:
        await peer.close()


def serve(peer: roletalk.Peer) -> list[Any]:
    """A role that answers everything with the peer's name. What messages it got."""
    role, told = peer.role("role"), list[Any]()
    role.on_request("name", lambda ctx: peer.name, inline=True)
    role.on_message("tell", lambda ctx: told.append(ctx.data), inline=True)

    @role.on_writable("name")
    async def write(ctx: Context) -> None:
        await ctx.accept(peer.name).finish()

    @role.on_readable("name")
    async def read(ctx: Context) -> None:
        await ctx.accept(peer.name).read()

    return told


class Services:
    """Services, and clients that are connected to all of them."""

    def __init__(self, peers: list[roletalk.Peer]) -> None:
        self._peers = peers
        self.by_name: dict[str, roletalk.Peer] = {}
        self.told: dict[str, list[Any]] = {}

    def add(self, name: str, **options: Any) -> roletalk.Peer:
        peer = self.by_name[name] = a_peer(self._peers, name, **options)
        self.told[name] = serve(peer)
        return peer

    async def client(self, **options: Any) -> roletalk.Peer:
        client = a_peer(self._peers, "client", **options)
        for service in self.by_name.values():
            await join(client, service)
        to = client.destination("role")
        await until(lambda: len(to.units) == len(self.by_name))
        return client


@pytest.fixture
def services(peers: list[roletalk.Peer]) -> Services:
    return Services(peers)


@pytest.fixture
def three(services: Services) -> Services:
    for number, zone in enumerate("aab", 1):
        services.add(f"math-{number}", tags={"zone": zone, "disk": "ssd" if number > 1 else "no"})
    return services


async def asked(ask: Callable[..., Awaitable[Any]], times: int, **options: Any) -> list[str]:
    return [await ask("name", **options) for _ in range(times)]


def named(name: str) -> Chooses:
    """A function that chooses the unit of this name."""

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        found = [each.unit for each in candidates if each.unit.name == name]
        return found[0] if found else None

    return choose


# The strategies of the engine.


async def test_round_robin_takes_turns(three: Services) -> None:
    client = await three.client(balance="round_robin")
    to = client.destination("role")
    for ask in ways(to):
        names = await asked(ask, 6)
        assert names[:3] == names[3:] and len(set(names)) == 3
    for number in range(6):
        await to.send("tell", number)
    await until(lambda: sum(map(len, three.told.values())) == 6)
    assert sorted(map(len, three.told.values())) == [2, 2, 2]


async def keep_asking(to: roletalk.Destination, times: int, **options: Any) -> list[str]:
    """Has many requests under way at any time until so many are answered; the rest is given up."""
    names: list[str] = []

    async def ask() -> None:
        while len(names) < times:
            names.append(await to.request("name", timeout=LIMIT, **options))

    asking = [asyncio.ensure_future(ask()) for _ in range(MANY)]
    await until(lambda: len(names) >= times)
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    return names


@pytest.mark.parametrize("how", ["default", "peer", "destination", "call"])
async def test_who_is_slow_gets_little_by_load(three: Services, how: str) -> None:
    held = Handlers()
    slow = three.by_name["math-2"].role("role")
    slow.on_request("name", held, replace=True)
    least: dict[str, Any] = {"balance": "least_loaded"}
    robin: dict[str, Any] = {"balance": "round_robin"}
    client = await three.client(
        **{"default": {}, "peer": least, "destination": robin, "call": robin}[how]
    )
    to = client.destination("role", **(least if how == "destination" else {}))
    # In turn, all of those who ask would wait for the slow one before long.
    names = await keep_asking(to, 500, **(least if how == "call" else {}))
    counted = Counter(names)
    assert set(counted) == {"math-1", "math-3"} and min(counted.values()) > 100
    assert len(held.begun) < MANY
    await until(lambda: is_clean(client))


async def test_an_answer_time_is_counted(three: Services) -> None:
    client = await three.client()
    (unit,) = (unit for unit in client.units if unit.name == "math-1")
    assert unit.stats().answer_time is None
    await client.destination("role").request("name", to=unit)
    time = unit.stats().answer_time
    assert time is not None and 0 < time <= 1


def placement() -> dict[str, str]:
    lines = [line for line in PLACEMENT.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split(" -> ") for line in lines)


async def test_a_key_goes_to_the_same_unit(services: Services) -> None:
    for number in range(1, 5):
        services.add(f"math-{number}")
    # They know the units in another order.
    clients = [await services.client()]
    services.by_name = dict(reversed(services.by_name.items()))
    clients.append(await services.client(balance="round_robin"))
    if PLACEMENT.exists():
        expected = placement()
    else:
        to = clients[0].destination("role")
        expected = {f"user {n}": await to.request("name", key=f"user {n}") for n in range(100)}
    for client in clients:
        to = client.destination("role")
        keys: list[str | bytes] = [*expected, *(key.encode() for key in expected)]
        names = await asyncio.gather(*(to.request("name", key=key) for key in keys))
        assert names == [*expected.values()] * 2
        for ask in ways(to):
            assert [await ask("name", key=key) for key in keys[:8]] == names[:8]
    for key in expected:
        await clients[0].destination("role").send("tell", key, key=key)
    await until(lambda: sum(map(len, services.told.values())) == 100)
    for name, told in services.told.items():
        assert told == [key for key, there in expected.items() if there == name]

    await services.by_name["math-4"].close()
    to = clients[1].destination("role")
    await until(lambda: len(to.units) == 3)
    names = await asyncio.gather(*(to.request("name", key=key) for key in expected))
    for (key, before), now in zip(expected.items(), names):
        assert (now == before) == (before != "math-4"), key
    assert set(names) == {"math-1", "math-2", "math-3"}


async def test_tags_are_preferred(three: Services) -> None:
    client = await three.client(balance="round_robin")
    to = client.destination("role")
    for ask in ways(to):
        assert set(await asked(ask, 6, prefer={"zone": "a"})) == {"math-1", "math-2"}
        assert set(await asked(ask, 4, prefer={"zone": "a", "disk": "ssd"})) == {"math-2"}
        # None has them.
        assert len(set(await asked(ask, 6, prefer={"zone": "c"}))) == 3
        assert len(set(await asked(ask, 6, prefer={}))) == 3
    for number in range(4):
        await to.send("tell", number, prefer={"zone": "b"})
    await until(lambda: three.told["math-3"] == [0, 1, 2, 3])
    # A key is for the same unit among those that are preferred.
    names = [
        await to.request("name", key=f"user {n}", prefer={"disk": "ssd"}) for n in [*range(16)] * 2
    ]
    assert names[:16] == names[16:] and set(names) == {"math-2", "math-3"}


async def test_a_call_is_before_a_destination_and_that_before_the_peer(three: Services) -> None:
    client = await three.client(balance=named("math-1"))
    to = client.destination("role")
    assert await asked(to.request, 2) == ["math-1"] * 2
    assert client.destination("role", balance="round_robin") is to
    assert len(set(await asked(to.request, 3))) == 3
    client.destination("role", prefer={"zone": "b"})
    # Each stays as it is when the other is set.
    assert await asked(to.request, 2) == ["math-3"] * 2
    assert await asked(to.request, 2, balance="least_loaded") == ["math-3"] * 2
    assert await asked(to.request, 2, key="user 1") == ["math-3"] * 2
    assert set(await asked(to.request, 4, prefer={"zone": "a"})) == {"math-1", "math-2"}
    client.destination("role")
    assert await asked(to.request, 2) == ["math-3"] * 2
    client.destination("role", balance=named("math-2"), prefer={})
    assert await asked(to.request, 2) == ["math-2"] * 2
    assert await asked(to.request, 2, balance=named("math-3")) == ["math-3"] * 2
    # Others choose as the peer was told.
    assert client.destination("other") is not to
    (unit,) = (unit for unit in to.units if unit.name == "math-1")
    options: list[dict[str, Any]] = [
        {"key": "user 1"},
        {"balance": named("math-3")},
        {"prefer": {"zone": "b"}},
    ]
    for option in options:
        assert await asked(to.request, 1, to=unit, **option) == ["math-1"]


# Functions.


async def test_a_function_is_told_of_the_units(three: Services) -> None:
    held = Handlers()
    three.by_name["math-2"].role("role").on_request("hold", held)
    client = await three.client()
    to = client.destination("role")
    seen: list[dict[str, Candidate]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        seen.append({each.unit.name: each for each in candidates})
        return seen[-1]["math-2"].unit if "math-2" in seen[-1] else None

    client.destination("role", balance=choose)
    await to.request("name")
    assert set(seen[0]) == {"math-1", "math-2", "math-3"}
    assert all((each.waiting, each.answer_time) == (0, 0) for each in seen[0].values())
    assert all(each.unit in to.units for each in seen[0].values())
    holding = [to.request("hold") for _ in range(3)]
    assert [each["math-2"].waiting for each in seen[1:]] == [0, 1, 2]
    assert 0 < seen[1]["math-2"].answer_time <= 1
    with pytest.raises(NoUnitError):
        await to.request("name", prefer={"zone": "b"})
    assert set(seen[-1]) == {"math-3"}
    with pytest.raises(AttributeError):
        seen[0]["math-1"].waiting = 1  # type: ignore[misc]
    assert "math-1" in repr(seen[0]["math-1"]) and "waiting=0" in repr(seen[0]["math-1"])
    for each in holding:
        each.cancel()
    # It can be called without the package.
    assert choose([Candidate(to.units[0])]) == (
        to.units[0] if to.units[0].name == "math-2" else None
    )


async def test_a_function_chooses_for_everything(three: Services) -> None:
    client = await three.client()
    to = client.destination("role")
    for name in three.by_name:
        for ask in ways(to):
            assert await asked(ask, 2, balance=named(name)) == [name] * 2
        await to.send("tell", name, balance=named(name))
        await until(lambda name=name: three.told[name] == [name])  # type: ignore[misc]
    assert await to.broadcast("tell", "all") == 3
    assert len(await to.survey("name").all()) == 3
    with pytest.raises(TypeError, match="key"):
        await to.broadcast("tell", key="user 1")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="key"):
        to.survey("name", key="user 1")  # type: ignore[call-arg]


async def test_a_function_that_chooses_none(three: Services, peers: list[roletalk.Peer]) -> None:
    client = await three.client()
    to = client.destination("role", balance=named("math-4"))
    for ask in [*ways(to), to.send]:
        with pytest.raises(NoUnitError) as none:
            await ask("name")
        assert "the function that chooses wants none of them" in str(none.value.hint)
    for ask in ways(to):
        with pytest.raises(roletalk.TimeoutError, match=r"\(20 ms\)"):
            await ask("name", wait_for_unit=True, timeout=0.02)
    waiting = [
        asyncio.ensure_future(ask("name", wait_for_unit=True, timeout=LIMIT)) for ask in ways(to)
    ]
    await until(lambda: client._engine.sizes()["parked"] == len(waiting))
    await join(client, three.add("math-4"))
    assert await asyncio.gather(*waiting) == ["math-4"] * len(waiting)
    await until(lambda: is_clean(client))


async def test_a_function_is_not_called_when_there_is_no_unit(peers: list[roletalk.Peer]) -> None:
    client = a_peer(peers, "client", balance=lambda candidates: 1 / 0)
    to = client.destination("role")
    for ask in [*ways(to), to.send]:
        with pytest.raises(NoUnitError):
            await ask("name")


class Odd:
    def __repr__(self) -> str:
        raise ValueError("odd")


@pytest.mark.parametrize(
    "junk",
    [1, "math-1", True, object(), Odd(), [], (), Candidate(None), lambda: None],  # type: ignore[arg-type]
)
async def test_a_function_that_returns_something_else(three: Services, junk: Any) -> None:
    client = await three.client()
    to = client.destination("role", balance=lambda candidates: junk)
    for ask in [*ways(to), to.send]:
        with pytest.raises(InvalidArgumentError, match="was not offered") as wrong:
            await ask("name", None)
        assert "`unit`" in str(wrong.value.hint)
    assert sum(unit.stats().requests_sent for unit in client.units) == 0
    assert sum(unit.stats().messages_sent for unit in client.units) == 0
    await until(lambda: is_clean(client))


async def test_a_unit_that_was_not_offered(three: Services) -> None:
    client, other = await three.client(), await three.client()
    units = [*other.units, *(unit for unit in client.units if unit.tags["zone"] == "a")]
    for unit in units:
        to = client.destination("role", prefer={"zone": "b"}, balance=lambda _, unit=unit: unit)
        with pytest.raises(InvalidArgumentError, match="was not offered"):
            await to.request("name")


@pytest.mark.parametrize("error", [KeyError("oops"), StopIteration("oops"), RecursionError("oops")])
async def test_a_function_that_fails(three: Services, error: Exception) -> None:
    def fail(candidates: Sequence[Candidate]) -> Unit | None:
        raise error

    client = await three.client(balance=fail)
    to = client.destination("role")
    for ask in [*ways(to), to.send]:
        with pytest.raises(
            InvalidArgumentError, match=r"chooses the unit failed: .*oops"
        ) as failed:
            await ask("name", None)
        assert failed.value.__cause__ is error
    assert sum(unit.stats().requests_sent for unit in client.units) == 0
    await until(lambda: is_clean(client))
    assert await to.request("name", balance="round_robin") in three.by_name


async def test_an_exception_that_is_to_end_the_program(three: Services) -> None:
    def fail(candidates: Sequence[Candidate]) -> Unit | None:
        raise SystemExit(3)

    client = await three.client(balance=fail)
    to = client.destination("role")
    for ask in (to.request, to.call, to.readable, to.writable):
        with pytest.raises(SystemExit):
            ask("name")
    with pytest.raises(SystemExit):
        await to.send("tell")
    await until(lambda: is_clean(client))


async def test_a_function_may_send(three: Services) -> None:
    client = await three.client()
    to = client.destination("role")
    inner: list[asyncio.Future[Any]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        inner.append(to.request("name", to=candidates[0].unit))
        inner.append(to.request("name", balance="least_loaded"))
        inner.append(asyncio.ensure_future(to.send("tell", balance=named("math-1"))))
        inner.append(to.request("name", balance=named("math-2")))
        client.destination("role", prefer={"zone": "a"})
        client.stats()
        return candidates[-1].unit

    for ask in ways(to):
        names = await asked(ask, 2, balance=choose)
        assert set(names) <= set(three.by_name)
    await asyncio.gather(*inner)
    await until(lambda: is_clean(client))


async def test_a_function_that_asks_itself_without_end(three: Services) -> None:
    client = await three.client()
    to = client.destination("role")
    inner: list[asyncio.Future[Any]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        inner.append(to.request("name"))
        return candidates[0].unit

    client.destination("role", balance=choose)
    await to.request("name")
    ended = await asyncio.gather(*inner, return_exceptions=True)
    wrong = [error for error in ended if isinstance(error, BaseException)]
    assert len(ended) == 32
    (error,) = wrong
    assert isinstance(error, InvalidArgumentError) and "without end" in str(error)
    assert await to.request("name", balance="round_robin") in three.by_name
    await until(lambda: is_clean(client))


async def test_a_function_may_close_the_peer(three: Services) -> None:
    for ask_at in range(5):
        client = await three.client()
        to = client.destination("role")

        def choose(candidates: Sequence[Candidate], client: roletalk.Peer = client) -> Unit | None:
            # As far as it goes at once.
            client._engine.close()
            return candidates[0].unit

        ask = [*ways(to), to.send][ask_at]
        with pytest.raises(roletalk.ClosedError):
            await ask("name", balance=choose)
        await client.close()


async def test_a_function_may_close_the_units(three: Services) -> None:
    client = await three.client()
    to = client.destination("role")
    offered: list[int] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        offered.append(len(candidates))
        if len(candidates) > 1:
            client._engine.close_unit(candidates[0].unit._number)
        return candidates[0].unit

    # Each is asked for again, without the one that is gone.
    last = await to.request("name", balance=choose)
    assert offered == [3, 2, 1]
    assert [unit.name for unit in to.units] == [last]


class Unhandled:
    """The first unit knows the role and does not handle the event, which the others do."""

    def __init__(self, client: roletalk.Peer) -> None:
        self.client = client
        self.to = client.destination("role")
        self.called: list[list[str]] = []

    def in_order(self, candidates: Sequence[Candidate]) -> Unit | None:
        names = {each.unit.name: each.unit for each in candidates}
        self.called.append(sorted(names))
        return names[min(names)]

    def rerouted(self) -> int:
        return sum(unit.stats().requests_rerouted for unit in self.client.units)


@pytest.fixture
async def unhandled(services: Services, peers: list[roletalk.Peer]) -> Unhandled:
    first = services.by_name["math-0"] = a_peer(peers, "math-0")
    first.role("role")
    for number in range(1, 3):
        services.add(f"math-{number}")
    return Unhandled(await services.client())


async def test_a_function_is_asked_again_when_a_request_goes_on(unhandled: Unhandled) -> None:
    for ask in ways(unhandled.to):
        unhandled.called.clear()
        assert await ask("name", balance=unhandled.in_order, timeout=LIMIT) == "math-1"
        assert unhandled.called == [["math-0", "math-1", "math-2"], ["math-1", "math-2"]]
    assert unhandled.rerouted() == 4
    await until(lambda: is_clean(unhandled.client))


@pytest.mark.parametrize("way", range(4))
async def test_what_a_function_does_when_a_request_goes_on(unhandled: Unhandled, way: int) -> None:
    to, client = unhandled.to, unhandled.client

    def again(then: Callable[[Sequence[Candidate]], Any]) -> Chooses:
        """Does something else the second time."""
        called: list[int] = []

        def choose(candidates: Sequence[Candidate]) -> Unit | None:
            called.append(len(candidates))
            return unhandled.in_order(candidates) if len(called) == 1 else then(candidates)

        return choose

    async def ask(then: Callable[[Sequence[Candidate]], Any], **options: Any) -> Any:
        asking = ways(to)[way]("name", balance=again(then), timeout=LIMIT, **options)
        return await asking

    # None of the others: the error that it has failed with.
    with pytest.raises(roletalk.RejectedError, match="not handled"):
        await ask(lambda candidates: None)
    with pytest.raises(InvalidArgumentError, match="was not offered"):
        await ask(lambda candidates: 1)
    with pytest.raises(InvalidArgumentError, match="division by zero") as failed:
        await ask(lambda candidates: 1 / 0)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)

    inner: list[asyncio.Future[Any]] = []

    def sends(candidates: Sequence[Candidate]) -> Unit | None:
        inner.append(to.request("name", balance=named("math-2")))
        return candidates[0].unit

    assert await ask(sends) in ("math-1", "math-2")
    assert await inner[0] == "math-2"

    def closes(candidates: Sequence[Candidate]) -> Unit | None:
        if len(candidates) > 1:
            client._engine.close_unit(candidates[0].unit._number)
        return candidates[0].unit

    answered = await ask(closes)
    assert {unit.name for unit in to.units} == {"math-0", answered}

    def ends(candidates: Sequence[Candidate]) -> Unit | None:
        client._engine.close()
        return candidates[0].unit

    with pytest.raises(roletalk.ClosedError):
        await ask(ends)


async def test_a_function_may_give_up_what_it_is_asked_for(unhandled: Unhandled) -> None:
    asking: list[asyncio.Future[Any]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        if asking:
            asking[0].cancel()
        return unhandled.in_order(candidates)

    asking.append(unhandled.to.request("name", balance=choose))
    with pytest.raises(asyncio.CancelledError):
        await asking[0]
    assert len(unhandled.called) == 2
    assert unhandled.rerouted() == 0
    await until(lambda: is_clean(unhandled.client))


async def test_what_a_function_sets_is_seen_by_no_other(unhandled: Unhandled) -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="nothing")
    seen: list[str] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        seen.append(variable.get())
        variable.set("set when it was asked again" if len(candidates) < 3 else "set")
        return unhandled.in_order(candidates)

    variable.set("the caller's")
    for _ in range(2):
        await unhandled.to.request("name", balance=choose)
        variable.set("the caller's")
    assert seen[0] == seen[2] == "the caller's"
    assert seen[1] == seen[3] == "nothing"


@pytest.mark.parametrize("chooses", [*STRATEGIES, "function"])
async def test_a_unit_that_leaves_turns_away_to_another(three: Services, chooses: str) -> None:
    client = await three.client()
    calls: Counter[int] = Counter()

    def function(candidates: Sequence[Candidate]) -> Unit | None:
        calls[len(candidates)] += 1
        return candidates[0].unit

    to = client.destination("role", balance=function if chooses == "function" else chooses)  # type: ignore[arg-type]
    answered, stopped = Counter[str](), False

    async def ask() -> None:
        while not stopped:
            answered[await to.request("name", timeout=LIMIT)] += 1

    asking = [asyncio.ensure_future(ask()) for _ in range(8)]
    for name in ("math-1", "math-2"):
        before = sum(answered.values())
        assert await three.by_name[name].drain(LIMIT)
        await until(lambda before=before: sum(answered.values()) > before + 50)  # type: ignore[misc]
    stopped = True
    await asyncio.gather(*asking)
    assert answered["math-3"] > 0
    await until(lambda: is_clean(client))


async def test_a_message_is_chosen_for_again_when_its_unit_is_gone(three: Services) -> None:
    client = await three.client(limits=roletalk.Limits(queue_per_connection=1))
    to = client.destination("role")
    units = {unit.name: unit for unit in to.units}
    offered: list[list[str]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        offered.append(sorted(each.unit.name for each in candidates))
        return min(candidates, key=lambda each: each.unit.name).unit

    async def send() -> asyncio.Future[Any]:
        # The unit has something then that is not written yet.
        full = to.request("name", to=units["math-1"])
        await to.send("tell", "x", balance=choose)
        return full

    sending = asyncio.ensure_future(send())
    await asyncio.sleep(0)
    assert client._engine.sizes()["room"] == 1
    client._engine.close_unit(units["math-1"]._number)
    full = await sending
    await until(lambda: three.told["math-2"] == ["x"])
    assert offered == [["math-1", "math-2", "math-3"], ["math-2", "math-3"]]
    with pytest.raises(roletalk.ConnectionLostError):
        await full


async def test_a_function_chooses_for_what_waited_for_room(three: Services) -> None:
    client = await three.client(limits=roletalk.Limits(queue_per_connection=1))
    to = client.destination("role", balance=named("math-1"))
    names = await asyncio.gather(*(to.request("name") for _ in range(20)))
    assert names == ["math-1"] * 20
    await until(lambda: is_clean(client))


async def test_a_function_chooses_among_those_that_take_headers(peers: list[roletalk.Peer]) -> None:
    services = Services(peers)
    services.add("new")
    make = roletalk._engine.Engine

    def plain(**options: Any) -> Any:
        return make(extensions=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roletalk._engine, "Engine", plain)
        services.add("old")
    client = await services.client()
    to = client.destination("role")
    seen: list[list[str]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        seen.append(sorted(each.unit.name for each in candidates))
        return candidates[0].unit

    await to.request("name", balance=choose, headers={"a": "b"})
    await to.request("name", balance=choose, headers={"a": "b"}, headers_required=True)
    assert seen == [["new", "old"], ["new"]]
    with pytest.raises(NoUnitError):
        await to.request(
            "name", balance=lambda candidates: None, headers={"a": "b"}, headers_required=True
        )


async def test_a_handler_chooses_by_a_function(three: Services) -> None:
    client = await three.client(balance=named("math-2"))
    to = client.destination("role")
    asking = a_peer(three._peers, "asking")

    @client.role("front").on_request("ask")
    async def ask(ctx: Context) -> Any:
        return await to.request("name")

    await join(asking, client)
    front = asking.destination("front")
    await until(lambda: front.is_ready)
    assert await front.request("ask", timeout=LIMIT) == "math-2"
    await until(lambda: is_clean(client, asking))


async def test_a_function_is_garbage_with_its_peer() -> None:
    class Choice:
        def __call__(self, candidates: Sequence[Candidate]) -> Unit | None:
            return candidates[0].unit

    found: list[weakref.ref[Any]] = []

    async def use() -> None:
        service, client = patient(name="service"), patient(name="client", balance=Choice())
        serve(service)
        await client.connect((await service.listen("127.0.0.1")).url)
        to = client.destination("role")
        await to.wait_ready(LIMIT)

        def choose(candidates: Sequence[Candidate]) -> Unit | None:
            return to.units[0]

        def own(candidates: Sequence[Candidate]) -> Unit | None:
            return to.units[0] if client else None

        assert await to.request("name", balance=choose) == "service"
        client.destination("role", balance=own)
        assert await to.request("name") == "service"
        for each in (choose, own, client, to):
            found.append(weakref.ref(each))
        await client.close()
        await service.close()

    await use()

    def is_gone() -> bool:
        gc.collect()
        return not any(reference() for reference in found)

    await until(is_gone)


# Mistakes.


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"balance": "fastest"}, InvalidArgumentError, 'no balance "fastest"'),
        ({"balance": ""}, InvalidArgumentError, "no balance"),
        ({"balance": "\ud800"}, InvalidArgumentError, "no balance"),
        ({"balance": 1}, TypeError, "balance must be .* not int"),
        ({"balance": ["round_robin"]}, TypeError, "balance must be"),
        ({"prefer": "zone"}, TypeError, "prefer must be a mapping of str to str"),
        ({"prefer": [("zone", "a")]}, TypeError, "prefer must be a mapping"),
        ({"prefer": {"zone": 1}}, TypeError, "prefer must be a mapping"),
        ({"prefer": {1: "a"}}, TypeError, "prefer must be a mapping"),
        ({"prefer": {"zone": "\ud800"}}, roletalk.DataError, "surrogates"),
        ({"key": 1}, TypeError, "key must be str or bytes, not int"),
        ({"key": "\ud800"}, roletalk.DataError, "surrogates"),
        ({"key": "a", "balance": "round_robin"}, InvalidArgumentError, "balance and key"),
    ],
)
async def test_wrong_options(
    three: Services, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    client = await three.client()
    to = client.destination("role", balance="round_robin", prefer={"zone": "b"})
    for ask in (to.request, to.call, to.readable, to.writable):
        with pytest.raises(error, match=text):
            ask("name", **options)
        with pytest.raises(error, match=text):
            ask("name", to=to.units[0], **options)
    with pytest.raises(error, match=text):
        await to.send("tell", **options)
    assert sum(unit.stats().requests_sent for unit in client.units) == 0
    if "key" in options:
        return
    for name in ("role", "other"):
        with pytest.raises(error, match=text):
            client.destination(name, wait_for_unit=True, **options)
    # Nothing has changed.
    assert client.destinations == [to]
    assert await asked(to.request, 2) == ["math-3"] * 2
    assert not to._waits
    if "balance" in options:
        with pytest.raises(error, match=text):
            roletalk.Peer(**options)


async def test_async_functions_cannot_choose() -> None:
    async def choose(candidates: Sequence[Candidate]) -> Unit | None:
        return None

    with pytest.raises(TypeError, match="plain function"):
        roletalk.Peer(balance=choose)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wait_for_unit must be a bool"):
        roletalk.Peer().destination("role", wait_for_unit=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["round-robin", "least-loaded"])
async def test_the_names_of_other_languages_are_understood(three: Services, name: Any) -> None:
    to = (await three.client(balance=name)).destination("role")
    assert len(set(await asked(to.request, 3, balance=name))) == 3
