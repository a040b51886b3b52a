from __future__ import annotations

import inspect
import pydoc
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import pytest

import roletalk
from roletalk import sync

from .conftest import LIMIT

if TYPE_CHECKING:
    from typing_extensions import assert_type

    async def what_checkers_see(peer: sync.Peer, original: roletalk.Peer) -> None:
        assert_type(peer.id, str)
        assert_type(peer.listen("127.0.0.1", 0, path="/"), sync.Listener)
        assert_type(peer.connect("ws://"), roletalk.Unit)
        assert_type(await original.connect("ws://"), roletalk.Unit)
        role = peer.role("role", active=False)
        assert_type(role, sync.Role)
        assert_type(role.name, str)
        assert_type(role.on_request("x", repr), Callable[[object], str])
        destination = peer.destination("role")
        assert_type(destination.units, list[roletalk.Unit])
        assert_type(destination.broadcast("x"), int)
        assert_type(destination.readable("x", to=peer.units[0]), sync.Readable)
        with destination.readable("x") as stream:
            assert_type(list(stream), list[bytes])
            assert_type(stream.read(1), bytes)
        assert_type(list(destination.survey("x")), list[roletalk.UnitAnswer])
        assert_type(next(peer.events()), roletalk.Event)
        destination.send()  # type: ignore[call-arg]
        destination.request("x", timeout="1")  # type: ignore[arg-type]
        destination.request("x", wait_for_unit=1)  # type: ignore[arg-type]
        assert_type(destination.readable("x", wait_for_unit=True), sync.Readable)
        assert_type(peer.destination("role", wait_for_unit=True), sync.Destination)
        assert_type(peer.destination("role", balance="round_robin"), sync.Destination)
        peer.destination("role", balance="fastest")  # type: ignore[arg-type]
        peer.destination("role", eject=roletalk.Ejection(failures=3), max_in_flight=5)
        peer.destination("role", eject=5)  # type: ignore[arg-type]
        assert_type(destination.standings(), list[roletalk.Standing])
        peer.destination("role", retry=roletalk.Retry(attempts=2))
        destination.request("x", retry=False)
        destination.request("x", retry=True)  # type: ignore[arg-type]
        destination.readable("x", retry=False)  # type: ignore[call-arg]
        assert_type(destination.writable("x", key="user 1", prefer={"a": "b"}), sync.Writable)
        destination.request("x", balance=lambda candidates: candidates[0].unit)
        destination.request("x", balance=lambda candidates: candidates[0])  # type: ignore[arg-type, return-value]
        destination.broadcast("x", key="user 1")  # type: ignore[call-arg]
        assert_type(peer.set_policy({"default": "deny"}), None)
        assert_type(peer.watch_policy("policy.json"), None)
        peer.set_policy(5)  # type: ignore[arg-type]
        assert_type(peer.units[0].identity, roletalk.Identity)
        assert_type(peer.units[0].identity.certificate, Optional[roletalk.Certificate])
        sync.Peer(authenticate=lambda request: {"sub": request.bearer})
        sync.Peer(authenticate=lambda request: True)  # type: ignore[arg-type, return-value]
        sync.Peer(channel_binding="always")  # type: ignore[arg-type]
        assert_type(peer.drain(), bool)
        assert_type(peer.serve(drain=1), bool)


Pair = tuple[sync.Peer, sync.Peer, roletalk.Unit]


@pytest.fixture
def both() -> Iterator[Pair]:
    with sync.Peer("worker") as worker, sync.Peer("client") as client:
        unit = client.connect(worker.listen("127.0.0.1").url)
        yield worker, client, unit


def test_requests_and_messages(both: Pair) -> None:
    worker, client, unit = both
    got = []
    role = worker.role("role")

    @role.on_request("double")
    def double(ctx: roletalk.Context) -> int:
        return ctx.data * 2

    @role.on_request("fail")
    async def fail(ctx: roletalk.Context) -> None:
        raise roletalk.RejectedError("no")

    role.on_message("line", lambda ctx: got.append(ctx.data), inline=True)
    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    assert destination.name == "role"
    assert [unit.name for unit in destination.units] == ["worker"] == [u.name for u in client.units]
    destination.send("line", "first", to=unit)
    assert destination.broadcast("line", "second") == 1
    assert destination.request("double", 21, timeout=LIMIT) == 42
    assert got == ["first", "second"]
    with pytest.raises(roletalk.RejectedError) as rejected:
        destination.request("fail")
    assert str(rejected.value) == "no"
    [answer] = destination.survey("double", 1, timeout=LIMIT)
    assert (answer.unit, answer.data) == (unit, 2)
    assert client.stats().units[unit].messages_sent == 2
    assert client.stats().units[unit].requests_sent == 3
    role.disable()
    with pytest.raises(roletalk.RejectedError):
        destination.request("double", to=unit)


def test_streams(both: Pair) -> None:
    worker, client, _ = both
    role = worker.role("role")
    sizes = []

    @role.on_readable("upload")
    async def upload(ctx: roletalk.Context) -> None:
        sizes.append(len(await ctx.accept("go").read()))

    @role.on_writable("download")
    async def download(ctx: roletalk.Context) -> None:
        async with ctx.accept() as stream:
            await stream.write(b"x" * ctx.data)

    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    with destination.writable("upload") as writer:
        assert writer.answer == "go"
        writer.write(b"y" * 200_000)
    assert sizes == [200_000]
    with destination.readable("download", 300_000) as reader:
        assert sum(len(chunk) for chunk in reader) == 300_000
    assert destination.readable("download", 10).read() == b"x" * 10


def test_everything_else(both: Pair) -> None:
    worker, client, unit = both
    events = client.events()
    seen: list[roletalk.Event] = []

    @client.on(roletalk.DestinationGained)
    def gained(event: roletalk.DestinationGained) -> None:
        seen.append(event)

    role = worker.role("role", active=False)
    assert worker.roles == [role] == [worker.role("role")] and role in {role}
    assert role.name == "role" and not role.is_active

    @role.middleware
    async def twice(ctx: roletalk.Context, call_next: roletalk.Next) -> Any:
        return [await call_next(ctx), await call_next(ctx)]

    role.on_request("echo", lambda ctx: ctx.data)
    role.enable()
    destination = client.destination("role")
    assert client.destinations == [destination] != [client.destination("other")]
    destination.wait_ready(LIMIT)
    assert destination.is_ready and repr(destination) == "<Destination 'role', 1 units>"
    assert destination.request("echo", 1, timeout=LIMIT) == [1, 1]
    with destination.survey("echo", 2, timeout=LIMIT) as survey:
        assert survey.asked == 1
        assert [answer.result() for answer in survey] == [[2, 2]]
    assert next(events) == roletalk.DestinationOpened("role")
    assert next(events) == roletalk.DestinationGained("role", unit)
    assert seen == [roletalk.DestinationGained("role", unit)]
    events.close()
    assert list(events) == []
    client.set_tag("key", "value")
    assert (client.name, client.tags) == ("client", {"key": "value"})
    with pytest.raises(AttributeError, match="only be read"):
        client.name = "other"  # type: ignore[assignment]
    client.close_unit(unit)
    assert not unit.is_open and client.units == [] and not client.is_closed
    listener = worker.listen("127.0.0.1")
    assert listener.port == listener.address[1]
    listener.close()


def test_a_handler_may_use_its_peer(both: Pair) -> None:
    worker, client, _ = both
    role = worker.role("role")

    @role.on_request("units")
    def units(ctx: roletalk.Context) -> int:
        return len(worker.stats().units)

    @role.on_request("wait for the loop in the loop")
    async def stuck(ctx: roletalk.Context) -> int:
        return len(worker.stats().units)

    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    assert destination.request("units", timeout=LIMIT) == 1
    with pytest.raises(roletalk.RejectedError, match="make it a plain function"):
        destination.request("wait for the loop in the loop", timeout=LIMIT)


def test_a_dropped_stream_is_broken_off(both: Pair) -> None:
    worker, client, unit = both

    @worker.role("role").on_readable("upload")
    async def upload(ctx: roletalk.Context) -> None:
        await ctx.accept().read()

    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    failed = worker.events()
    stream = destination.writable("upload")
    del stream
    for event in failed:
        if isinstance(event, roletalk.HandlerFailed):
            assert isinstance(event.error, roletalk.StreamClosedError)
            break
    assert client.stats().units[unit].streams == 0


def test_errors_and_the_end(both: Pair) -> None:
    _, client, _ = both
    with pytest.raises(roletalk.InvalidArgumentError):
        client.connect("http://localhost")
    assert not client.disconnect("ws://localhost")
    with pytest.raises(roletalk.InvalidArgumentError):
        sync.Peer(keys={"": ""})
    assert client.drain(LIMIT)
    client.close()
    assert client.is_closed
    with pytest.raises(roletalk.ClosedError, match="is closed"):
        client.destination("role")


def test_waiting_for_a_unit() -> None:
    with sync.Peer("worker") as worker, sync.Peer("client") as client:
        to = client.destination("role")
        for ask in (to.request, to.call, to.readable, to.writable):
            with pytest.raises(roletalk.NoUnitError):
                ask("echo")
            with pytest.raises(roletalk.TimeoutError):
                ask("echo", timeout=0.01, wait_for_unit=True)
        worker.role("role").on_request("echo", lambda ctx: ctx.data)
        url = worker.listen("127.0.0.1").url
        timer = threading.Timer(0.01, client.dial, [url])
        timer.start()
        assert client.destination("role", wait_for_unit=True).request("echo", 1) == 1
        timer.join()


def test_closing_ends_what_other_threads_wait_for() -> None:
    """However the calls and the end of the loop fall together, each has an outcome."""
    for _ in range(20):
        peer = sync.Peer()
        destination = peer.destination("role")
        begun = threading.Barrier(4, timeout=LIMIT)
        outcomes: list[BaseException] = []

        def wait() -> None:
            begun.wait()
            try:
                while True:
                    with pytest.raises(roletalk.NoUnitError):
                        destination.request("x")
                    destination.wait_ready()
            except BaseException as error:
                outcomes.append(error)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait()
        peer.close()
        for thread in threads:
            thread.join()
        assert [type(outcome) for outcome in outcomes] == [roletalk.ClosedError] * 3


async def test_inside_of_a_loop(both: Pair) -> None:
    """As in a notebook."""
    worker, client, _ = both
    worker.role("role").on_request("echo", lambda ctx: ctx.data)
    destination = client.destination("role")
    destination.wait_ready(LIMIT)
    assert destination.request("echo", 1, timeout=LIMIT) == 1


FACADES = {
    sync.Peer: roletalk.Peer,
    sync.Listener: roletalk.Listener,
    sync.Role: roletalk.Role,
    sync.Destination: roletalk.Destination,
    sync.Survey: roletalk.Survey,
    sync.Readable: roletalk.Readable,
    sync.Writable: roletalk.Writable,
    sync.Events: roletalk.Events,
}
SPECIAL = {
    (sync.Peer, "close_unit"),
    (sync.Peer, "close"),
    (sync.Peer, "drain"),
    (sync.Peer, "serve"),
    (sync.Peer, "roles"),
    (sync.Peer, "destinations"),
}
"""What is written out in the facade, and has a text of its own."""


def public(kind: type) -> dict[str, Any]:
    names = [name for name in dir(kind) if not name.startswith("_")]
    return {name: inspect.getattr_static(kind, name) for name in names}


@pytest.mark.parametrize("facade", FACADES, ids=lambda facade: facade.__name__)
def test_the_facade_is_that_of_the_original(facade: type) -> None:
    original = FACADES[facade]
    assert facade.__name__ == original.__name__ and facade.__doc__
    own, theirs = public(facade), public(original)
    assert own.keys() - {name for kind, name in SPECIAL if kind is facade} <= theirs.keys()
    assert own.keys() >= theirs.keys()
    for name, member in theirs.items():
        assert inspect.isdatadescriptor(own[name]) == inspect.isdatadescriptor(member), name
        if (facade, name) not in SPECIAL:
            assert inspect.getdoc(own[name]) == inspect.getdoc(member) != None, name  # noqa: E711
        if inspect.isfunction(member) or inspect.ismethoddescriptor(member):
            assert parameters(own[name]) == parameters(member), name
            assert not inspect.iscoroutinefunction(own[name]), name
    text = pydoc.render_doc(facade, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    assert all(name in text for name in theirs)


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def test_peers_are_made_with_the_same_arguments() -> None:
    assert parameters(sync.Peer.__init__) == parameters(roletalk.Peer.__init__)
    assert "tags" in pydoc.render_doc(sync.Peer, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="nme"):
        sync.Peer(nme="typo")  # type: ignore[call-arg]


def test_the_choice_of_the_unit(both: Pair) -> None:
    worker, client, unit = both
    with sync.Peer("other", tags={"zone": "a"}, balance=lambda candidates: None) as other:
        client.connect(other.listen("127.0.0.1").url)
        for peer in (worker, other):
            name = peer.name
            peer.role("role").on_request("name", lambda ctx, name=name: name)
        destination = client.destination("role", prefer={"zone": "a"})
        destination.wait_ready(LIMIT)
        while len(destination.units) < 2:
            threading.Event().wait(0.001)
        assert [destination.request("name") for _ in range(3)] == ["other"] * 3
        names = [destination.request("name", key="user 1", prefer={}) for _ in range(3)]
        assert len(set(names)) == 1
        threads: list[threading.Thread] = []

        def choose(candidates: Sequence[roletalk.Candidate]) -> roletalk.Unit | None:
            threads.append(threading.current_thread())
            return next((each.unit for each in candidates if each.unit is unit), None)

        client.destination("role", balance=choose)
        assert destination.request("name", prefer={}) == "worker"
        with pytest.raises(roletalk.NoUnitError):
            destination.request("name")
        destination.send("none", prefer={})
        assert client.stats().units[unit].messages_sent == 1
        assert {thread.name for thread in threads} == {"roletalk loop"}

        def waits(candidates: Sequence[roletalk.Candidate]) -> roletalk.Unit | None:
            # It would wait for the loop that calls it.
            destination.request("name", to=unit)
            return unit

        with pytest.raises(roletalk.InvalidArgumentError) as failed:
            destination.request("name", balance=waits)
        assert isinstance(failed.value.__cause__, RuntimeError)
        with pytest.raises(roletalk.InvalidArgumentError, match="no balance"):
            sync.Peer(balance="fastest")  # type: ignore[arg-type]
        client.role("back")
        back = other.destination("back")
        back.wait_ready(LIMIT)
        with pytest.raises(roletalk.NoUnitError, match="back"):
            back.request("name")


def test_policies_and_judgements(tmp_path: Path) -> None:
    def authenticate(request: roletalk.UpgradeRequest) -> dict[str, Any]:
        if request.bearer is None:
            raise roletalk.DeniedError(401, "no token")
        return {"sub": request.bearer}

    path = tmp_path / "policy.json"
    path.write_text('{"rules": [{"who": {"claim": {"sub": "ann"}}, "call": ["role/echo"]}]}')
    with sync.Peer(authenticate=authenticate) as worker, sync.Peer() as client:
        worker.watch_policy(path)
        worker.role("role").on_request("echo", lambda ctx: ctx.unit.identity.claims["sub"])
        listener = worker.listen("127.0.0.1")
        with pytest.raises(roletalk.ConnectFailedError, match="401"):
            client.connect(listener.url, permanent=False)
        client.connect(listener.url, headers={"Authorization": "Bearer ann"})
        role = client.destination("role")
        role.wait_ready(LIMIT)
        assert role.request("echo") == "ann"
        worker.set_policy({"default": "deny"})
        with pytest.raises(roletalk.RejectedError, match="Not allowed"):
            role.request("echo")
        with pytest.raises(roletalk.InvalidArgumentError):
            worker.set_policy("{")
        [counters] = worker.stats().units.values()
        assert counters.denied == 1
