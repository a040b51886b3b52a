"""Limits and counters are written out in Python for their types and documentation. The lists are the
engine's: what one of them has, Python has."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from typing import Any

import pytest

import roletalk
from roletalk import _engine, limits

TYPES = {"count": int, "bytes": int, "seconds": float}
SCALES = {"MiB": 1 << 20, "KiB": 1 << 10, "s": 1, "": 1}
MEASURES = {"MiB": "bytes", "KiB": "bytes", "s": "seconds", "": "count"}


def hints(known: type) -> dict[str, Any]:
    """The types of the fields as they are written: CPython 3.9 cannot evaluate them."""
    return {field.name: field.type for field in fields(known)}


def documentation() -> dict[str, str]:
    """The text under each field of ``Limits``."""
    (body,) = [
        node.body
        for node in ast.parse(inspect.getsource(limits)).body
        if isinstance(node, ast.ClassDef) and node.name == "Limits"
    ]
    texts = {}
    for field, text in zip(body, body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return texts


def test_every_limit_of_the_engine_is_there() -> None:
    known = [field.name for field in fields(roletalk.Limits)]
    assert known == [name for name, _, _ in _engine.LIMITS]


@pytest.mark.parametrize(("name", "measure", "default"), _engine.LIMITS)
def test_the_type_and_the_documentation_of_a_limit(
    name: str, measure: str, default: int | float
) -> None:
    assert hints(roletalk.Limits)[name] == f"{TYPES[measure].__name__} | None"
    written = re.search(r"\bDefault (\d+(?: \d{3})*)(?: (MiB|KiB|s))?\b", documentation()[name])
    assert written, documentation()[name]
    number, unit = written.groups(default="")
    assert (MEASURES[unit], int(number.replace(" ", "")) * SCALES[unit]) == (measure, default)


@pytest.mark.parametrize(
    ("known", "table", "other"),
    [
        (roletalk.UnitStats, _engine.UNIT_COUNTERS, {"connections"}),
        (roletalk.ConnectionStats, _engine.CONNECTION_COUNTERS, set()),
    ],
)
def test_every_counter_of_the_engine_is_there(
    known: type, table: list[tuple[str, str]], other: set[str]
) -> None:
    names = [field.name for field in fields(known) if field.name not in other]
    assert names == [name for name, _ in table]
    for name, measure in table:
        expected = "float | None" if measure == "seconds" else "int"
        assert hints(known)[name] == expected, name
