"""Describes the numbers between two bounds digit by digit, so that a model cannot write others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal

from runner.grammar.automaton import Alt, Chars, Node, Repeat, Seq, text

# Without a limit, a small model writes digits forever, and 64-bit floats hold no more digits than these exactly.
INTEGER_DIGITS = 15
FRACTION_DIGITS = 6

# The digits of numbers, first to last; each is a range from one digit to another.
Digits = list[tuple[int, int]]


def integers(low: int | None, high: int | None) -> Alt:
    """Return the integers from `low` to `high`, both included; one bound may be None. No parts if there are none."""
    bounds = [Decimal(bound) for bound in (low, high) if bound is not None]
    return Alt((*_beyond(low, high, 0, bounds), *_between(low, high, 0, bounds)))


def decimals(low: Decimal | None, high: Decimal | None, *, is_above: bool = False, is_below: bool = False) -> Alt:
    """Return the same with digits after the point, a few or as many as the bounds have.

    `is_above` and `is_below` exclude the bounds themselves.
    """
    bounds = [bound for bound in (low, high) if bound is not None]
    places = max(FRACTION_DIGITS, *map(_places, bounds))
    numbers = list(_beyond(low, high, places, bounds))
    for fraction in range(places + 1):
        unit = 10**fraction
        first = None if low is None else math.floor(low * unit) + 1 if is_above else math.ceil(low * unit)
        last = None if high is None else math.ceil(high * unit) - 1 if is_below else math.floor(high * unit)
        numbers += _between(first, last, fraction, bounds)
    return Alt(tuple(numbers))


def _places(bound: Decimal) -> int:
    exponent = bound.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _longest(bounds: list[Decimal]) -> int:
    return max(len(str(math.floor(abs(bound)))) for bound in bounds)


def _beyond(low: object, high: object, places: int, bounds: list[Decimal]) -> Iterator[Node]:
    """Yield, on the sides without a bound, the numbers with more digits before the point than the other bound."""
    length = _longest(bounds)
    before = Seq((_digit(1, 9), Repeat(_digit(0, 9), length, max(length, INTEGER_DIGITS - 1))))
    after = Seq((text("."), Repeat(_digit(0, 9), 1, places)))
    number = Seq((before, Repeat(after, 0, 1))) if places else before
    if low is None:
        yield Seq((text("-"), number))
    if high is None:
        yield number


def _between(low: int | None, high: int | None, fraction: int, bounds: list[Decimal]) -> Iterator[Node]:
    """Yield the numbers from low to high, in units of the last of `fraction` digits after the point."""
    edge = 10 ** (_longest(bounds) + fraction) - 1
    low = -edge if low is None else low
    high = edge if high is None else high
    for digits in _unsigned(max(1, -high), -low, fraction):
        yield Seq((text("-"), _number(digits, fraction)))
    for digits in _unsigned(max(0, low), high, fraction):
        yield _number(digits, fraction)


def _unsigned(low: int, high: int, fraction: int) -> Iterator[Digits]:
    """Yield digits by length: before the point there is one digit, or several that do not begin with 0."""
    length = fraction + 1
    while low <= high:
        last = min(high, 10**length - 1)
        if low <= last:
            yield from _same_length(str(low).zfill(length), str(last).zfill(length))
            low = last + 1
        length += 1


def _same_length(low: str, high: str) -> Iterator[Digits]:
    """Yield all digits from `low` to `high`, which are equally long."""
    if not low:
        yield []
        return
    first, last = int(low[0]), int(high[0])
    rest = len(low) - 1
    if first == last:
        for digits in _same_length(low[1:], high[1:]):
            yield [(first, first), *digits]
        return
    if low[1:] != "0" * rest:
        for digits in _same_length(low[1:], "9" * rest):
            yield [(first, first), *digits]
        first += 1
    if high[1:] != "9" * rest:
        for digits in _same_length("0" * rest, high[1:]):
            yield [(last, last), *digits]
        last -= 1
    if first <= last:
        yield [(first, last), *[(0, 9)] * rest]


def _number(digits: Digits, fraction: int) -> Node:
    parts = [_digit(low, high) for low, high in digits]
    if fraction:
        parts.insert(len(parts) - fraction, text("."))
    return Seq(tuple(parts))


def _digit(low: int, high: int) -> Node:
    return Chars(((ord("0") + low, ord("0") + high),))
