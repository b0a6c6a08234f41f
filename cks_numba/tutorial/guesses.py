"""What a prediction asks for, a number or one of several choices, and what is said to a guess."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .answers import Wrong, shown

RIGHT, CLOSE, NO = "right", "close", "no"


@dataclass(frozen=True)
class Number:
    """A question whose answer is a number.

    `answer` computes it. A guess at most `within` away is right, and one at most `near` away is close. `thoughts` says
    something about the likely thought behind single wrong guesses, `low` and `high` about all others. `because` is
    said in every case; ``{answer}`` in it becomes the answer.
    """

    answer: Callable[[], float]
    because: str
    low: str
    high: str
    thoughts: Mapping[float, str] = field(default_factory=dict)
    within: float = 0
    near: float = 0
    asks: str = "a number"

    @cached_property
    def right(self) -> float:
        return self.answer()

    def judge(self, guess: Any) -> tuple[str, str]:
        """Whether a guess is right, close, or neither, and what to say about it.

        Examples
        --------
        >>> nine = Number(lambda: 3 * 3, "It is {answer}.", "More.", "Fewer.", {6: "Multiply."}, near=1)
        >>> nine.judge(9), nine.judge(10), nine.judge(6)
        (('right', ''), ('close', ''), ('no', 'Multiply.'))
        """
        number = self._read(guess)
        if abs(number - self.right) <= self.within:
            return RIGHT, ""
        nearest = min(self.thoughts, key=lambda value: abs(value - number), default=math.inf)
        if math.isclose(number, nearest, rel_tol=0.01):
            return NO, self.thoughts[nearest]
        if abs(number - self.right) <= self.near:
            return CLOSE, ""
        return NO, self.low if number < self.right else self.high

    @staticmethod
    def _read(guess: Any) -> float:
        if isinstance(guess, bool) or not isinstance(guess, (int, float, np.number)) or not math.isfinite(guess):
            raise Wrong(f"Guess a number; {shown(guess)} is none.")
        return float(guess)


@dataclass(frozen=True)
class Choice:
    """A question whose answer is one of `choices`; the other parts are as in `Number`."""

    choices: tuple[str | int, ...]
    answer: Callable[[], str | int]
    because: str
    thoughts: Mapping[str | int, str]

    @cached_property
    def right(self) -> str | int:
        return self.answer()

    @property
    def asks(self) -> str:
        return "one of " + ", ".join(map(repr, self.choices))

    def judge(self, guess: Any) -> tuple[str, str]:
        """Whether a guess is right or not, and what to say about it.

        Examples
        --------
        >>> side = Choice(("left", "right"), lambda: "left", "It is the {answer} one.", {"right": "Look again."})
        >>> side.judge("Left"), side.judge("right")
        (('right', ''), ('no', 'Look again.'))
        """
        names = {str(choice).casefold(): choice for choice in self.choices}
        choice = names.get(str(guess).strip().casefold())
        if choice is None:
            raise Wrong(f"Choose {self.asks}; {shown(guess)} is none of them.")
        return (RIGHT, "") if choice == self.right else (NO, self.thoughts[choice])


Prediction = Number | Choice
