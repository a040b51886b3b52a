"""How the unit is chosen that something goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Literal, Optional, Union

from ._engine import Candidate
from .unit import Unit

__all__ = ["Balance", "Candidate"]

Balance = Union[
    Literal["round_robin", "least_loaded"],
    Callable[[Sequence[Candidate]], Optional[Unit]],
]
"""The name of a strategy, or a function that gets the units that can be asked, and returns one of them."""
