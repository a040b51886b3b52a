from __future__ import annotations

import builtins
import inspect

import pytest

import roletalk
from roletalk import _engine

KINDS: dict[str, int] = {kind: code for code, kind in _engine.ERROR_KINDS}
"""The table of the engine."""
CLASSES = {known.kind: known for known in roletalk.Error.__subclasses__()}


def test_every_kind_of_the_engine_has_a_class() -> None:
    assert CLASSES.keys() == KINDS.keys()
    assert len(CLASSES) == len(roletalk.Error.__subclasses__())


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_of_a_kind(kind: str) -> None:
    known = CLASSES[kind]
    assert known.number == KINDS[kind]
    assert known.__name__ == "".join(word.capitalize() for word in kind.split("_")) + "Error"
    assert getattr(roletalk, known.__name__) is known and known.__name__ in roletalk.__all__
    assert inspect.getdoc(known) not in (None, inspect.getdoc(roletalk.Error))
    assert str(known("text")) == "text"


@pytest.mark.parametrize(
    ("known", "builtin"),
    [
        (roletalk.TimeoutError, builtins.TimeoutError),
        (roletalk.HeartbeatTimeoutError, builtins.TimeoutError),
        (roletalk.ConnectFailedError, ConnectionError),
        (roletalk.ConnectionLostError, ConnectionError),
        (roletalk.InvalidArgumentError, ValueError),
        (roletalk.DataError, ValueError),
        (roletalk.TooLargeError, ValueError),
        (roletalk.NoUnitError, LookupError),
        (roletalk.IoError, OSError),
    ],
)
def test_what_else_an_error_is(known: type[roletalk.Error], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise known("text")
