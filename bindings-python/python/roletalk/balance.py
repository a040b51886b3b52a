"""How the unit is chosen that something goes to, and how requests are made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Literal, Optional, Union

from ._engine import Candidate, Ejection, Retry
from .unit import Unit

__all__ = ["Balance", "Candidate", "Ejection", "Retry", "Standing"]

Balance = Union[
    Literal["round_robin", "least_loaded"],
    Callable[[Sequence[Candidate]], Optional[Unit]],
]
"""The name of a strategy, or a function that gets the units that can be asked, and returns one of them."""


@dataclass(frozen=True)
class Standing:
    """How a unit that serves a role stands."""

    unit: Unit
    """The unit."""
    waiting: int
    """Requests that wait for its answer, those for streams included."""
    answer_time: float
    """The seconds that an answer is likely to take, as in ``Candidate``; 0 when nothing is known."""
    unanswered: int
    """Requests in a row that were not answered in time."""
    rejected: int
    """Requests in a row that were rejected."""
    ejected: float | None
    """Seconds for which it is still left out, 0 while one request finds out whether it has recovered; None
    when it is not left out."""
