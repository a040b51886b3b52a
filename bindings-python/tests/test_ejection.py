"""Units that keep failing are left out; what is in flight, and what waits for a unit, has a bound."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Candidate, Context, Ejection, OverloadedError, Standing, Unit

from .conftest import LIMIT, is_clean, patient, until
from .test_routing import a_peer, join, ways

TEXT = "Too many requests to this destination are in flight"


def fails() -> Any:
    raise roletalk.RejectedError("no")


class Service:
    """A peer, and what it does with requests."""

    def __init__(self, peer: roletalk.Peer) -> None:
        self.peer = peer
        self.asked = 0
        self.held: list[asyncio.Future[Any]] = []
        self.handle: Callable[[], Any] | None = lambda: peer.name
        """None: it holds them."""
        self.role = peer.role("role")
        self.role.on_request("who", self.who)
        self.role.on_readable("up", self.up)
        self.unit: Unit

    async def who(self, ctx: Context) -> Any:
        self.asked += 1
        if self.handle is not None:
            return self.handle()
        self.held.append(asyncio.get_running_loop().create_future())
        return await self.held[-1]

    async def up(self, ctx: Context) -> None:
        async with ctx.accept() as stream:
            await stream.read()

    def let_go(self) -> None:
        self.handle = lambda: self.peer.name
        for held in self.held:
            if not held.done():
                held.set_result(self.peer.name)


class Field:
    """Services, and a client that is connected to them in their order."""

    def __init__(self) -> None:
        self.peers: list[roletalk.Peer] = []
        self.services: dict[str, Service] = {}
        self.client: roletalk.Peer
        self.to: roletalk.Destination

    async def set(
        self, names: str, *, client: dict[str, Any] | None = None, **options: Any
    ) -> None:
        options_of_client: dict[str, Any] = {"balance": "round_robin", **(client or {})}
        self.client = a_peer(self.peers, "client", **options_of_client)
        self.to = self.client.destination("role", **options)
        for name in names:
            await self.add(name)

    async def add(self, name: str) -> Service:
        service = self.services[name] = Service(a_peer(self.peers, name))
        service.unit = await join(self.client, service.peer)
        await until(lambda: service.unit in self.to.units)
        return service

    async def outcome(self, **options: Any) -> Any:
        """The answer, or the class of the error."""
        try:
            return await asyncio.wait_for(self.to.request("who", **options), LIMIT)
        except roletalk.Error as error:
            return type(error)

    async def outcomes(self, times: int, **options: Any) -> list[Any]:
        """Of so many requests, one after the other."""
        return [await self.outcome(**options) for _ in range(times)]

    def standing(self, name: str) -> Standing:
        (standing,) = (each for each in self.to.standings() if each.unit.name == name)
        return standing

    def is_out(self, name: str) -> bool:
        return self.standing(name).ejected is not None

    def parked(self) -> int:
        """How many requests wait."""
        return self.client._engine.sizes()["parked"]

    async def told(self, events: roletalk.Events) -> roletalk.Event:
        """Which unit is left out next, or is back."""
        async for event in events:
            if isinstance(event, (roletalk.UnitEjected, roletalk.UnitRestored)):
                return event
        raise AssertionError("the events have ended")

    async def is_clean(self) -> None:
        await until(lambda: is_clean(*self.peers))


@pytest.fixture
async def field() -> AsyncIterator[Field]:
    made = Field()
    yield made
    for peer in made.peers:
        await peer.close()


REJECTIONS = Ejection(failures=3, rejections=True, time=LIMIT, most=2 * LIMIT)


async def test_a_unit_that_keeps_rejecting_is_left_out_if_that_counts(field: Field) -> None:
    await field.set("abc", eject=REJECTIONS)
    told = field.client.events()
    b = field.services["b"]
    b.handle = fails
    outcomes = await field.outcomes(30)
    assert outcomes.count(roletalk.RejectedError) == 3
    assert await field.told(told) == roletalk.UnitEjected("role", b.unit)
    standing = field.standing("b")
    assert (standing.rejected, standing.unanswered, standing.waiting) == (3, 0, 0)
    assert standing.ejected is not None and 0 < standing.ejected <= LIMIT
    assert not field.is_out("a") and field.standing("a").rejected == 0
    # A further failure leaves it out for longer. Who is asked for is asked all the same.
    assert await field.outcomes(1, to=b.unit) == [roletalk.RejectedError]
    longer = field.standing("b").ejected
    assert longer is not None and LIMIT < longer <= 2 * LIMIT
    # An answer takes it back.
    b.handle = lambda: "b"
    assert await field.outcomes(1, to=b.unit) == ["b"]
    assert (field.standing("b").rejected, field.standing("b").ejected) == (0, None)
    assert (await field.outcomes(6)).count("b") == 2
    assert await field.told(told) == roletalk.UnitRestored("role", b.unit)
    await field.is_clean()


async def test_one_request_finds_out_whether_it_has_recovered(field: Field) -> None:
    await field.set("ab", eject=Ejection(failures=1, rejections=True, time=0.01))
    b = field.services["b"]
    b.handle = fails
    await field.outcomes(1, to=b.unit)
    await until(lambda: not field.is_out("b"))
    b.handle = None
    asked = [asyncio.ensure_future(field.outcome()) for _ in range(10)]
    await until(lambda: len(b.held) == 1)
    assert field.standing("b").ejected == 0
    await until(lambda: sum(each.done() for each in asked) == 9)
    assert await field.outcomes(4) == ["a"] * 4
    b.let_go()
    assert sorted(await asyncio.gather(*asked)) == ["a"] * 9 + ["b"]
    assert not field.is_out("b")
    assert sorted(await field.outcomes(4)) == ["a", "a", "b", "b"]
    await field.is_clean()


async def test_a_unit_that_does_not_answer_in_time_is_left_out(field: Field) -> None:
    await field.set("ab", client={"eject": Ejection(failures=2, time=LIMIT)})
    b = field.services["b"]
    b.handle = None
    assert await field.outcomes(2, to=b.unit, timeout=0.02) == [roletalk.TimeoutError] * 2
    assert field.standing("b").unanswered == 2
    ejected = field.standing("b").ejected
    assert ejected is not None and 0 < ejected <= LIMIT
    assert await field.outcomes(4) == ["a"] * 4
    await field.is_clean()


async def test_rejections_do_not_count_unless_so_told_and_half_are_left(field: Field) -> None:
    await field.set("ab", client={"eject": True})
    a, b = field.services.values()
    b.handle = fails
    assert (await field.outcomes(20)).count(roletalk.RejectedError) == 10
    assert (field.standing("b").rejected, field.is_out("b")) == (10, False)
    a.handle = fails
    field.client.destination("role", eject=REJECTIONS)
    await field.outcomes(10)
    assert [field.is_out("a"), field.is_out("b")].count(True) == 1
    await field.is_clean()


async def test_which_units_are_left_out_is_an_option_of_its_own(field: Field) -> None:
    await field.set("abc", client={"eject": REJECTIONS})
    b = field.services["b"]
    b.handle = fails
    await field.outcomes(9)
    assert field.is_out("b")
    offered: set[str] = set()

    def choose(candidates: Sequence[Candidate]) -> Unit:
        offered.add("".join(each.unit.name for each in candidates))
        return candidates[0].unit

    # The balance, tags and keys of a call change nothing, and functions choose among the others.
    options: list[dict[str, Any]] = [
        {"balance": "round_robin"},
        {"balance": "least_loaded"},
        {"prefer": {}},
        {"balance": choose},
    ]
    for option in options:
        assert roletalk.RejectedError not in await field.outcomes(6, **option)
    assert offered == {"ac"}
    keys = {answer for key in range(20) for answer in await field.outcomes(1, key=f"{key}")}
    assert keys == {"a", "c"}
    # Nor does what else a destination is told.
    field.client.destination("role", balance="least_loaded", prefer={"zone": "a"})
    assert field.is_out("b")
    field.client.destination("role", balance=choose)
    assert field.is_out("b") and await field.outcomes(2) == ["a"] * 2
    field.client.destination("role", eject=False, balance="round_robin", prefer={})
    assert not field.is_out("b")
    assert roletalk.RejectedError in await field.outcomes(3)
    field.client.destination("role", eject=REJECTIONS)
    assert field.is_out("b")
    # Others have their own say.
    b.peer.role("other")
    other = field.client.destination("other", eject=False)
    await until(lambda: len(other.units) == 1)
    assert [each.ejected for each in other.standings()] == [None]
    await field.is_clean()


async def test_a_function_of_the_peer_chooses_among_those_that_are_left(field: Field) -> None:
    seen: list[int] = []

    def choose(candidates: Sequence[Candidate]) -> Unit:
        seen.append(len(candidates))
        return candidates[-1].unit

    await field.set("ab", client={"eject": REJECTIONS, "balance": choose})
    field.services["b"].handle = fails
    assert await field.outcomes(5) == [roletalk.RejectedError] * 3 + ["a"] * 2
    assert seen == [2, 2, 2, 1, 1]


async def test_how_units_stand(field: Field) -> None:
    await field.set("ab")
    assert field.client.destination("nobody").standings() == []
    assert field.to.standings() == [Standing(unit, 0, 0, 0, 0, None) for unit in field.to.units]
    a, b = field.services.values()
    a.handle = None
    asked = field.to.request("who", to=a.unit)
    assert field.standing("a").waiting == 1
    assert await field.outcomes(1, to=b.unit) == ["b"]
    assert field.standing("b").answer_time > 0
    await until(lambda: len(a.held) == 1)
    a.let_go()
    assert await asked == "a"
    assert field.standing("a").waiting == 0
    given_up = field.to.request("who", to=a.unit)
    given_up.cancel()
    assert field.standing("a").waiting == 0
    with pytest.raises(AttributeError):
        field.standing("a").waiting = 1  # type: ignore[misc]
    await field.is_clean()


# The bound of requests in flight.


async def test_so_many_are_in_flight_to_a_destination_and_no_more(field: Field) -> None:
    await field.set("ab", max_in_flight=2)
    a, b = field.services.values()
    a.handle = b.handle = None
    first, second = (asyncio.ensure_future(field.outcome()) for _ in range(2))
    await until(lambda: len(a.held) + len(b.held) == 2)
    options: list[dict[str, Any]] = [
        {},
        {"timeout": LIMIT},
        {"to": a.unit},
        {"headers": {"h": "x"}},
    ]
    for option in options:
        with pytest.raises(OverloadedError) as full:
            await field.to.request("who", **option)
        assert str(full.value) == f"{TEXT} (the limit is 2)" and "bound" in str(full.value.hint)
    with pytest.raises(OverloadedError, match=TEXT):
        await field.to.writable("up")
    # Messages, surveys and other destinations have nothing to do with it.
    await field.to.send("what")
    survey = asyncio.ensure_future(field.to.survey("who").all())
    await until(lambda: len(a.held) + len(b.held) == 4)
    a.peer.role("other").on_request("who", lambda ctx: "other", inline=True)
    other = field.client.destination("other")
    await until(lambda: len(other.units) == 1)
    assert await other.request("who") == "other"
    # One that is given up leaves room for another, and so does one that is answered.
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    a.handle = b.handle = lambda: "now"
    assert await field.outcomes(3) == ["now"] * 3
    a.let_go()
    b.let_go()
    assert await second in ("a", "b")
    assert len(await survey) == 2
    async with field.to.writable("up") as stream:
        assert sorted(await field.outcomes(2)) == ["a", "b"]
        await stream.write(b"data")
    await field.is_clean()


async def test_who_waits_no_longer_leaves_room_at_once(field: Field) -> None:
    await field.set("a", max_in_flight=1)
    a = field.services["a"]
    a.handle = None
    for _ in range(50):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(field.to.request("who"), 0.001)
    assert field.standing("a").waiting == 0
    await field.is_clean()


async def test_the_bound_stays_until_it_is_taken_off(field: Field) -> None:
    await field.set("a")
    a = field.services["a"]
    a.handle = None
    field.client.destination("role", max_in_flight=1)
    asked = [field.to.request("who")]
    field.client.destination("role", prefer={})
    field.client.destination("role", max_in_flight=1)
    assert await field.outcomes(1) == [OverloadedError]
    field.client.destination("role", max_in_flight=math.inf)
    asked += [field.to.request("who") for _ in range(5)]
    await until(lambda: len(a.held) == 6)
    field.client.destination("role", max_in_flight=0)
    assert await field.outcomes(1) == [OverloadedError]
    a.let_go()
    assert await asyncio.gather(*asked) == ["a"] * 6
    await field.is_clean()


async def test_what_goes_on_to_another_unit_counts_once(field: Field) -> None:
    def last(candidates: Sequence[Candidate]) -> Unit:
        return candidates[-1].unit

    await field.set("b", max_in_flight=1)
    first = a_peer(field.peers, "0")
    first.role("role")
    unit = await join(field.client, first)
    await until(lambda: len(field.to.units) == 2)
    for option in ({"balance": last}, {"balance": "round_robin"}):
        assert await field.outcomes(4, **option) == ["b"] * 4
    assert unit.stats().requests_rerouted >= 5
    # Who has chosen the unit meant that one.
    assert await field.outcomes(2, to=unit) == [roletalk.RejectedError] * 2
    await field.is_clean()


# The bound of what waits for a unit.


async def test_so_many_wait_for_a_unit_and_no_more(field: Field) -> None:
    limits = roletalk.Limits(waiting_requests=3)
    await field.set("", client={"limits": limits}, wait_for_unit=True)
    other = field.client.destination("other")
    first = field.to.request("who")
    second = other.request("who", wait_for_unit=True)
    stream = field.to.writable("up")
    third = asyncio.ensure_future(stream._open())
    await until(lambda: field.parked() == 3)
    for to in (field.to, other):
        for ask in ways(to):
            with pytest.raises(OverloadedError) as full:
                await ask("who", wait_for_unit=True)
            assert str(full.value) == "Too many requests wait for a unit (the limit is 3)"
            assert "waiting_requests" in str(full.value.hint)
    second.cancel()
    await until(lambda: field.parked() == 2)
    fourth = field.to.request("who")
    await field.add("a")
    assert [await first, await fourth] == ["a", "a"]
    await third
    await stream.finish()
    await field.is_clean()


@pytest.mark.parametrize("by_function", [False, True])
async def test_what_waits_for_another_unit_counts_as_well(field: Field, by_function: bool) -> None:
    def first(candidates: Sequence[Candidate]) -> Unit:
        return candidates[0].unit

    balance = first if by_function else "round_robin"
    limits = roletalk.Limits(waiting_requests=1)
    options: dict[str, Any] = {"wait_for_unit": True, "balance": balance}
    await field.set("a", client={"limits": limits}, **options)
    waiting = field.to.request("none")
    await until(lambda: field.parked() == 1)
    for ask in ways(field.to):
        with pytest.raises(OverloadedError, match="wait for a unit"):
            await ask("none")
    waiting.cancel()
    await until(lambda: field.parked() == 0)
    # It is told why it has waited in vain.
    with pytest.raises(roletalk.TimeoutError, match=r"\(500 ms\)") as error:
        await field.to.request("none", timeout=0.5)
    hint = str(error.value.hint)
    assert hint.startswith("It waited for another unit after one that did not handle it: ")
    assert "none" in hint
    await field.is_clean()


async def test_one_that_waits_does_not_count_twice(field: Field) -> None:
    limits = roletalk.Limits(waiting_requests=1)
    await field.set("", client={"limits": limits}, wait_for_unit=True, balance=lambda _: None)
    asked = field.to.request("who")
    await field.add("a")
    # It was looked for a unit again, and it waits on.
    assert not asked.done() and field.parked() == 1
    field.client.destination("role", balance="round_robin")
    asked.cancel()
    await field.is_clean()


# Mistakes.

EJECT = "eject must be a bool or an Ejection, not "
BOUND = "max_in_flight must be "
MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"eject": 5}, TypeError, f"{EJECT}int"),
    ({"eject": {"failures": 3}}, TypeError, f"{EJECT}dict"),
    ({"eject": Ejection}, TypeError, f"{EJECT}type"),
    ({"max_in_flight": -1}, ValueError, f"{BOUND}from 0 to"),
    ({"max_in_flight": 1 << 80}, ValueError, f"{BOUND}from 0 to"),
    ({"max_in_flight": 0.5}, TypeError, f"{BOUND}an int, or math.inf for no bound, not float"),
    ({"max_in_flight": math.nan}, TypeError, BOUND),
    ({"max_in_flight": "5"}, TypeError, f"{BOUND}an int, or math.inf for no bound, not str"),
]


@pytest.mark.parametrize(("options", "error", "text"), MISTAKES)
async def test_a_mistake_changes_nothing(
    field: Field, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    await field.set("ab")
    valid: dict[str, Any] = {"prefer": {"a": "b"}, "max_in_flight": 0, "eject": REJECTIONS}
    for name in ("role", "other"):
        with pytest.raises(error, match=text):
            field.client.destination(name, wait_for_unit=True, **{**valid, **options})
    if "eject" in options:
        with pytest.raises(error, match=text):
            roletalk.Peer(**options)
    assert field.client.destinations == [field.to]
    field.services["b"].handle = fails
    assert (await field.outcomes(12)).count(roletalk.RejectedError) == 6


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"failures": 0}, ValueError, "failures must be from 1 to 4294967295"),
        ({"failures": 1 << 32}, ValueError, "failures must be from 1"),
        ({"failures": 1.5}, TypeError, "failures must be an int, not float"),
        ({"rejections": 1}, TypeError, "rejections must be a bool, not int"),
        ({"time": 0}, ValueError, "time must be a positive number of seconds"),
        ({"most": math.nan}, ValueError, "most must be a positive number"),
        ({"time": "1"}, TypeError, "time must be a number of seconds, not str"),
        ({"fails": 1}, TypeError, "fails"),
    ],
)
def test_an_ejection_that_makes_no_sense(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Ejection(**options)


def test_what_an_ejection_says() -> None:
    assert repr(Ejection()) == "Ejection(failures=5, rejections=False, time=5.0, most=60.0)"
    told = Ejection(failures=2, rejections=True, time=1, most=2.5)
    assert (told.failures, told.rejections, told.time, told.most) == (2, True, 1.0, 2.5)
    with pytest.raises(AttributeError):
        told.failures = 3  # type: ignore[misc]


async def test_a_peer_that_is_closed_tells_of_no_unit(field: Field) -> None:
    await field.set("a")
    await field.client.close()
    assert field.to.standings() == []
    assert patient().destination("role", eject=True, max_in_flight=5).standings() == []
