"""Requests that may be handled more than once are made again, others are not."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Callable

import pytest

import roletalk
from roletalk import Candidate, Context, Retry, Unit

from .conftest import LIMIT, Chain, is_clean, until
from .test_cancel import Handlers
from .test_routing import a_peer, join, ways

VARIABLE = contextvars.ContextVar("VARIABLE", default="nothing")


class Service:
    """A peer that does with requests as it is told."""

    def __init__(self, peer: roletalk.Peer, does: str, asked: list[str]) -> None:
        self.peer = peer
        self.asked = asked
        self.hung = Handlers()
        self.unit: Unit
        role = peer.role("role")
        if does != "nothing":
            role.on_request("do", getattr(self, does))

    async def answers(self, ctx: Context) -> Any:
        self.asked.append(self.peer.name)
        ctx.set_header("by", self.peer.name)
        return [self.peer.name, ctx.data]

    async def rejects(self, ctx: Context) -> None:
        self.asked.append(self.peer.name)
        raise roletalk.RejectedError("no")

    async def rejects_for_now(self, ctx: Context) -> None:
        self.asked.append(self.peer.name)
        ctx.set_header("by", self.peer.name)
        raise roletalk.HandlerError("not now", code="LATER", retry_after=0.005)

    async def breaks(self, ctx: Context) -> None:
        self.asked.append(self.peer.name)
        self.closing = asyncio.ensure_future(self.peer.close())
        await asyncio.Event().wait()

    async def hangs(self, ctx: Context) -> None:
        self.asked.append(self.peer.name)
        await self.hung(ctx)


class Field:
    """Services, and a client that is connected to them in their order."""

    def __init__(self) -> None:
        self.peers: list[roletalk.Peer] = []
        self.asked: list[str] = []
        """The names of those that were asked, in order."""
        self.services: dict[str, Service] = {}
        self.client: roletalk.Peer
        self.to: roletalk.Destination

    async def set(self, *, client: dict[str, Any] | None = None, **does: str) -> None:
        options: dict[str, Any] = {"balance": "round_robin", **(client or {})}
        self.client = a_peer(self.peers, "client", **options)
        self.to = self.client.destination("role")
        for name, what in does.items():
            await self.add(name, what)

    async def add(self, name: str, does: str) -> None:
        service = self.services[name] = Service(a_peer(self.peers, name), does, self.asked)
        service.unit = await join(self.client, service.peer)
        await until(lambda: service.unit in self.to.units)

    def taken(self) -> list[str]:
        asked = self.asked[:]
        self.asked.clear()
        return asked

    async def fails(self, *, of: type[roletalk.Error], **options: Any) -> Any:
        """Asks, and returns the error."""
        with pytest.raises(of) as failed:
            await asyncio.wait_for(self.to.request("do", **options), LIMIT)
        assert type(failed.value) is of
        return failed.value

    async def is_clean(self) -> None:
        await until(lambda: is_clean(*self.peers))


@pytest.fixture
async def field() -> AsyncIterator[Field]:
    made = Field()
    yield made
    for peer in made.peers:
        await peer.close()


def counters(retry: Retry) -> tuple[int, int, int]:
    return retry.retried, retry.hedged, retry.refused


def prefers(name: str) -> Callable[[Sequence[Candidate]], Unit]:
    """A function that chooses this unit, as long as it can."""

    def choose(candidates: Sequence[Candidate]) -> Unit:
        found = [each.unit for each in candidates if each.unit.name == name]
        return found[0] if found else candidates[0].unit

    return choose


async def test_what_may_have_begun_is_not_made_again_where_that_was_not_said(field: Field) -> None:
    await field.set(a="breaks", b="answers")
    await field.fails(of=roletalk.ConnectionLostError)
    assert field.asked == ["a"]
    await field.is_clean()


@pytest.mark.parametrize("how", ["request", "call", "destination"])
async def test_what_may_have_begun_is_made_again(field: Field, how: str) -> None:
    await field.set(a="breaks", b="answers")
    retry, data = Retry(), ["data"]
    if how == "destination":
        field.client.destination("role", retry=retry)
        asked: Any = field.to.request("do", data)
    else:
        asked = getattr(field.to, how)("do", data, retry=retry)
    # It is kept as it was.
    data[0] = "else"
    answer = await asked
    if how == "call":
        assert answer.headers["by"] == "b"
        answer = answer.data
    assert answer == ["b", ["data"]]
    assert field.asked == ["a", "b"]
    assert counters(retry) == (1, 0, 0)
    assert repr(retry) == "<Retry retried=1 hedged=0 refused=0>"
    await field.is_clean()


async def test_who_chooses_the_unit_means_that_one(field: Field) -> None:
    await field.set(a="breaks", b="answers")
    retry = Retry()
    field.client.destination("role", retry=retry)
    unit = field.services["a"].unit
    await field.fails(of=roletalk.ConnectionLostError, to=unit, retry=retry)
    assert field.asked == ["a"] and counters(retry) == (0, 0, 0)
    await field.is_clean()


async def test_only_requests_are_made_again(field: Field) -> None:
    await field.set(a="rejects_for_now", b="rejects_for_now")
    retry = Retry()
    field.client.destination("role", retry=retry)
    answers = await field.to.survey("do").all()
    assert {type(answer.error) for answer in answers} == {roletalk.RejectedError}
    await field.to.send("do")
    assert await field.to.broadcast("do") == 2
    for ask in ways(field.to)[2:]:
        with pytest.raises(roletalk.RejectedError):
            await ask("none")
    assert sorted(field.asked) == ["a", "b"] and counters(retry) == (0, 0, 0)
    others: list[Any] = [field.to.survey, field.to.readable, field.to.writable]
    for other in [field.to.send, field.to.broadcast, *others]:
        with pytest.raises(TypeError, match="retry"):
            await other("do", retry=retry)


async def test_a_call_may_say_that_it_is_not_made_again(field: Field) -> None:
    await field.set(a="breaks", b="breaks")
    field.client.destination("role", retry=Retry())
    # It stays as it was.
    field.client.destination("role", wait_for_unit=False)
    await field.fails(of=roletalk.ConnectionLostError, retry=False)
    await until(lambda: len(field.to.units) == 1)
    field.client.destination("role", retry=False)
    await field.fails(of=roletalk.ConnectionLostError)
    assert field.asked == ["a", "b"]
    await field.is_clean()


async def test_an_answer_is_an_answer_even_if_it_is_a_rejection(field: Field) -> None:
    await field.set(a="rejects", b="answers")
    retry = Retry()
    error = await field.fails(of=roletalk.RejectedError, retry=retry)
    assert str(error) == "no" and field.asked == ["a"]
    assert counters(retry) == (0, 0, 0)
    await field.is_clean()


async def test_who_says_when_to_try_again_is_asked_again_after_the_others(field: Field) -> None:
    await field.set(a="rejects_for_now", b="rejects_for_now")
    retry = Retry(attempts=4, backoff=0.001, longest=0.001)
    error = await field.fails(of=roletalk.RejectedError, retry=retry)
    # What it came with is that of the last one, and never was the same one asked twice in a row.
    assert (str(error), error.code, error.retry_after) == ("not now", "LATER", 0.005)
    assert field.taken() == ["a", "b", "a", "b"] and error.headers["by"] == "b"
    assert counters(retry) == (3, 0, 0)
    await field.fails(of=roletalk.RejectedError, retry=Retry(attempts=1))
    assert len(field.asked) == 1
    await field.is_clean()


@pytest.mark.parametrize("after", [0.01, 0])
@pytest.mark.parametrize("by_function", [False, True])
async def test_a_slow_answer_is_overtaken_and_its_handler_given_up(
    field: Field, after: float, by_function: bool
) -> None:
    await field.set(slow="hangs", quick="answers")
    slow = field.services["slow"].hung
    retry = Retry(hedge_after=after)

    async def answer(ctx: Context) -> str:
        field.asked.append("quick")
        # What is given up before its handler has begun has none.
        await slow.are_begun(turn)
        return "quick"

    field.services["quick"].peer.role("role").on_request("do", answer, replace=True)
    options: dict[str, Any] = {"balance": prefers("slow")} if by_function else {}
    # In turn, the next one would go to the other unit first.
    for turn in (1, 2) if by_function else (1,):
        assert await field.to.request("do", retry=retry, **options) == "quick"
        await slow.are_ended(turn, "requester")
        assert sorted(field.taken()) == ["quick", "slow"]
    assert counters(retry) == (0, turn, 0)
    await field.is_clean()


async def test_hedging_waits_for_what_answers_take(field: Field) -> None:
    await field.set(a="answers", b="hangs")
    retry = Retry(hedge_quantile=1)
    only = prefers("a")
    for _ in range(100):
        await field.to.request("do", retry=retry, balance=only)
    assert counters(retry) == (0, 0, 0)
    field.taken()
    assert await field.to.request("do", retry=retry, balance=prefers("b")) == ["a", None]
    assert field.taken() == ["b", "a"] and counters(retry) == (0, 1, 0)
    await field.is_clean()


async def test_the_first_may_still_answer_when_the_second_one_fails(field: Field) -> None:
    await field.set(slow="hangs", b="breaks")
    release = asyncio.Event()

    async def slow(ctx: Context) -> str:
        field.asked.append("slow")
        await release.wait()
        return "slow"

    service = field.services["slow"].peer
    service.role("role").on_request("do", slow, replace=True)
    retry = Retry(hedge_after=0.001)
    asked = field.to.request("do", retry=retry, balance=prefers("slow"))
    await until(lambda: len(field.to.units) == 1)
    release.set()
    assert await asked == "slow"
    assert sorted(field.asked) == ["b", "slow"] and counters(retry) == (0, 1, 0)
    await field.is_clean()


async def test_all_attempts_have_one_time_limit(field: Field) -> None:
    await field.set(a="hangs", b="hangs")
    retry = Retry(attempts=9, hedge_after=0)
    error = await field.fails(of=roletalk.TimeoutError, timeout=0.1, retry=retry)
    assert str(error) == "Request timeout exceeded (100 ms)"
    assert counters(retry) == (0, 1, 0)
    await field.is_clean()


@pytest.mark.parametrize("how", ["future", "task"])
async def test_what_is_given_up_is_given_up_wherever_it_is(field: Field, how: str) -> None:
    await field.set(a="hangs", b="hangs")
    retry = Retry(hedge_after=0)

    async def ask() -> None:
        await field.to.request("do", retry=retry)

    if how == "future":
        asked: asyncio.Future[Any] = field.to.request("do", retry=retry)
    else:
        asked = asyncio.ensure_future(ask())
    await until(lambda: len(field.asked) == 2)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    for service in field.services.values():
        await service.hung.are_ended(1, "requester")
    await field.is_clean()


async def test_a_handler_that_is_given_up_gives_up_its_attempts(chain: Chain) -> None:
    held, retry = Handlers(), Retry()
    chain.last.on_request("do", held)

    @chain.first.on_request("do")
    async def do(ctx: Context) -> None:
        await chain.to_end.request("do", retry=retry)

    asked = chain.to_middle.request("do")
    await held.are_begun(1)
    asked.cancel()
    await held.are_ended(1, "requester")
    await until(lambda: is_clean(*chain.peers))


@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_what_ends_before_a_further_attempt(field: Field, end: str) -> None:
    await field.set(a="rejects_for_now")
    retry = Retry(backoff=LIMIT / 2, longest=LIMIT / 2)
    asked = field.to.request("do", retry=retry, timeout=LIMIT)
    await until(lambda: retry.retried == 1)
    if end == "cancel":
        asked.cancel()
    else:
        await field.client.close()
        with pytest.raises(roletalk.RejectedError, match="not now"):
            await asked
    await field.is_clean()
    assert field.asked == ["a"]


async def test_what_is_under_way_ends_with_the_peer(field: Field) -> None:
    await field.set(a="hangs", b="hangs")
    asked = field.to.request("do", retry=Retry(hedge_after=0))
    await until(lambda: len(field.asked) == 2)
    await field.client.close()
    with pytest.raises(roletalk.ClosedError):
        await asked
    await field.is_clean()


async def test_what_was_not_begun_goes_on_and_costs_nothing(field: Field) -> None:
    await field.set(a="nothing", b="answers")
    retry = Retry(budget=0, attempts=1)
    for _ in range(4):
        assert await field.to.request("do", retry=retry) == ["b", None]
    assert field.services["a"].unit.stats().requests_rerouted >= 1
    with pytest.raises(roletalk.RejectedError) as unhandled:
        await field.to.request("none", retry=retry)
    assert unhandled.value.unhandled and counters(retry) == (0, 0, 0)
    await field.is_clean()


async def test_there_is_a_budget(field: Field) -> None:
    await field.set(a="rejects_for_now")
    retry = Retry(attempts=2, backoff=0, longest=0, budget=0)
    for _ in range(12):
        await field.fails(of=roletalk.RejectedError, retry=retry)
    assert counters(retry) == (10, 0, 2)
    await field.is_clean()


async def test_it_waits_for_a_unit_too(field: Field) -> None:
    await field.set(client={"limits": roletalk.Limits(waiting_requests=1)})
    retry = Retry()
    await field.fails(of=roletalk.NoUnitError, retry=retry)
    field.client.destination("role", wait_for_unit=True, retry=retry)
    error = await field.fails(of=roletalk.TimeoutError, timeout=0.02)
    assert '"role"' in error.hint
    asked = field.to.request("do", timeout=LIMIT)
    error = await field.fails(of=roletalk.OverloadedError, timeout=LIMIT)
    assert str(error) == "Too many requests wait for a unit (the limit is 1)"
    asked.cancel()
    await field.is_clean()
    asked = field.to.request("do", [1])
    await field.add("a", "answers")
    assert await asked == ["a", [1]]
    asked = field.to.request("none", retry=retry)
    await until(lambda: field.client._engine.sizes()["parked"] == 1)
    await field.client.close()
    with pytest.raises(roletalk.ClosedError):
        await asked
    assert counters(retry) == (0, 0, 0)
    await field.is_clean()


async def test_a_failure_that_is_to_be_made_again_waits_for_a_unit(field: Field) -> None:
    await field.set(a="breaks")
    asked = field.to.request("do", retry=Retry(), wait_for_unit=True, timeout=LIMIT)
    await until(lambda: not field.to.units)
    await field.add("b", "answers")
    assert await asked == ["b", None]
    await field.is_clean()


async def test_its_attempts_wait_for_room(field: Field) -> None:
    await field.set(client={"limits": roletalk.Limits(queue_per_connection=1)}, a="answers")
    retry, many = Retry(), 30
    asked = [field.to.request("do", n, retry=retry) for n in range(many)]
    assert field.client._engine.sizes()["parked"] > 0
    asked[-1].cancel()
    assert await asyncio.gather(*asked[:-1]) == [["a", n] for n in range(many - 1)]
    await field.is_clean()
    assert len(field.asked) == many - 1
    # The time limit holds there as well.
    hung = Handlers()
    field.services["a"].peer.role("role").on_request("hang", hung)
    late = [field.to.request("hang", retry=retry, timeout=0.05) for _ in range(many)]
    outcomes = await asyncio.gather(*late, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {roletalk.TimeoutError}
    await field.is_clean()


async def test_its_attempts_count_for_the_bound_of_the_destination(field: Field) -> None:
    await field.set(a="hangs", b="answers")
    field.client.destination("role", max_in_flight=1)
    retry = Retry(hedge_after=0)
    hung = field.services["a"].hung
    asked = field.to.request("do", retry=retry, balance=prefers("a"))
    await hung.are_begun(1)
    # The second one has failed, and the first one may still answer.
    await until(lambda: retry.hedged == 1)
    await asyncio.sleep(0)
    assert not asked.done() and field.asked == ["a"]
    asked.cancel()
    await hung.are_ended(1, "requester")
    assert await field.to.request("do", retry=Retry(), balance=prefers("b")) == ["b", None]
    await field.is_clean()


@pytest.mark.parametrize("by_function", [False, True])
async def test_units_that_come_and_go(field: Field, by_function: bool) -> None:
    await field.set(a="answers", b="answers", c="answers")
    retry = Retry(attempts=5, budget=1, backoff=0.001, hedge_after=0.001)
    balance: Any = (lambda candidates: candidates[-1].unit) if by_function else "least_loaded"
    field.client.destination("role", retry=retry, wait_for_unit=True, balance=balance)
    outcomes: list[Any] = []
    stopped = False

    async def ask(number: int) -> None:
        while not stopped:
            asked = field.to.request("do", number, timeout=LIMIT)
            if len(outcomes) % 8 == 0:
                asked.cancel()
            outcome: Any = (await asyncio.gather(asked, return_exceptions=True))[0]
            outcomes.append(outcome)
            known = (roletalk.ConnectionLostError, roletalk.RejectedError, asyncio.CancelledError)
            assert isinstance(outcome, known) or outcome[1] == number, outcome

    asking = [asyncio.ensure_future(ask(number)) for number in range(16)]
    for number, name in enumerate("abcabc"):
        before = len(outcomes)
        await until(lambda before=before: len(outcomes) > before + 50)  # type: ignore[misc]
        await field.services[name].peer.close()
        await field.add(name, "rejects_for_now" if number == 1 else "answers")
    stopped = True
    await asyncio.gather(*asking)
    assert any(isinstance(outcome, list) for outcome in outcomes)
    await field.is_clean()


# Functions that choose.


async def test_a_function_runs_in_the_context_of_the_caller(field: Field) -> None:
    await field.set(a="rejects_for_now", b="rejects_for_now")
    seen: list[tuple[str, str]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit:
        seen.append((VARIABLE.get(), "".join(each.unit.name for each in candidates)))
        VARIABLE.set("the function's")
        return candidates[0].unit

    VARIABLE.set("the caller's")
    asked = field.to.request("do", retry=Retry(backoff=0), balance=choose)
    VARIABLE.set("later")
    with pytest.raises(roletalk.RejectedError):
        await asked
    caller = "the caller's"
    assert seen[:2] == [(caller, "ab"), (caller, "b")]
    assert {context for context, _ in seen} == {caller}
    assert VARIABLE.get() == "later"


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("hedged", [False, True])
async def test_a_function_that_fails(field: Field, call: int, hedged: bool) -> None:
    await field.set(a="hangs" if hedged else "rejects_for_now", b="answers")
    calls: list[int] = []

    def choose(candidates: Sequence[Candidate]) -> Unit:
        calls.append(len(candidates))
        if len(calls) == call:
            raise KeyError("odd")
        return candidates[0].unit

    retry = Retry(hedge_after=0) if hedged else Retry(backoff=0)
    error = await field.fails(of=roletalk.InvalidArgumentError, retry=retry, balance=choose)
    assert "The function that chooses the unit failed" in str(error)
    assert type(error.__cause__) is KeyError and len(calls) == call
    # Nothing is left under way, nor anywhere a handler that was begun.
    await field.is_clean()


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("does", ["cancel", "close", "none", "ask"])
async def test_what_a_function_does(field: Field, does: str, call: int) -> None:
    await field.set(a="hangs", b="answers")
    calls: list[str] = []
    asked: list[asyncio.Future[Any]] = []

    def choose(candidates: Sequence[Candidate]) -> Unit | None:
        calls.append(does)
        if len(calls) != call:
            return candidates[0].unit
        if does == "cancel" and call == 2:
            asked[0].cancel()
        elif does == "close":
            # What it does first, it does at once.
            field.client._engine.close()
        elif does == "none":
            return None
        elif does == "ask":
            asked.append(field.to.request("do", to=field.services["b"].unit))
        return candidates[-1].unit

    # The second call is not made within the first one.
    first = field.to.request("do", retry=Retry(hedge_after=0.01), balance=choose)
    asked.insert(0, first)
    if does == "cancel" and call == 2:
        with pytest.raises(asyncio.CancelledError):
            await first
    elif does == "close":
        with pytest.raises(roletalk.ClosedError):
            await first
    elif does == "none" and call == 1:
        with pytest.raises(roletalk.NoUnitError):
            await first
    elif does == "none":
        # There is no second attempt then.
        await field.services["a"].hung.are_begun(1)
        assert not first.done()
        first.cancel()
    else:
        assert await first == ["b", None]
    for other in asked[1:]:
        assert await other == ["b", None]
    await field.is_clean()


# Mistakes.


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"attempts": 0}, ValueError, "attempts must be from 1 to 4294967295"),
        ({"attempts": 1.5}, TypeError, "attempts must be an int, not float"),
        ({"backoff": -1}, ValueError, "backoff must be a number of seconds from 0 on"),
        ({"backoff": math.inf}, ValueError, "backoff must be a number of seconds"),
        ({"longest": "1"}, TypeError, "longest must be a number of seconds, not str"),
        ({"budget": 1.5}, ValueError, "budget must be from 0 to 1"),
        ({"budget": math.nan}, ValueError, "budget must be from 0 to 1"),
        ({"hedge_after": -1}, ValueError, "hedge_after must be"),
        ({"hedge_quantile": 95}, ValueError, "hedge_quantile must be from 0 to 1"),
        (
            {"hedge_after": 1, "hedge_quantile": 0.5},
            roletalk.InvalidArgumentError,
            "give one of them",
        ),
        ({"hedge": 1}, TypeError, "hedge"),
    ],
)
def test_a_retry_that_makes_no_sense(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Retry(**options)


@pytest.mark.parametrize("retry", [5, True, {}, Retry])
async def test_an_option_that_is_none(field: Field, retry: Any) -> None:
    await field.set(a="answers")
    text = "retry must be a Retry, or False, not "
    for ask in (field.to.request, field.to.call):
        with pytest.raises(TypeError, match=text):
            ask("do", retry=retry)
    for name in ("role", "other"):
        with pytest.raises(TypeError, match=text):
            field.client.destination(name, retry=retry, max_in_flight=0)
    assert field.client.destinations == [field.to]
    assert await field.to.request("do") == ["a", None]
    assert field.asked == ["a"]
