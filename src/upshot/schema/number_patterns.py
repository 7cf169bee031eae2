"""Regular expressions for decimal numbers within limits, because a JSON Schema cannot compare numbers in strings."""

from __future__ import annotations

from fractions import Fraction

_DECIMALS = 9  # the most that a number can have


def number_pattern(minimum: Fraction, maximum: Fraction) -> str:
    """
    Return the pattern of a decimal number within limits, such as `0012.50`, for the beginning of a text.

    Args:
        minimum: Smallest number, not below zero.
        maximum: Largest number.
    """
    return rf"(?=(?:{_at_least(minimum)})(?![0-9.]))(?=(?:{_at_most(maximum)})(?![0-9.]))[0-9]+(?:\.[0-9]+)?"


def _at_least(limit: Fraction) -> str:
    scaled = -(-limit.numerator * 10**_DECIMALS // limit.denominator)  # rounded up
    whole, fraction = divmod(scaled, 10**_DECIMALS)
    larger = rf"0*(?:{_larger(str(whole))})(?:\.[0-9]+)?"
    if not fraction:
        return rf"{larger}|0*{whole}(?:\.[0-9]+)?"
    digits = f"{fraction:0{_DECIMALS}d}".rstrip("0")
    options = [rf"{digits[:i]}[{int(d) + 1}-9][0-9]*" for i, d in enumerate(digits) if d != "9"]
    return rf"{larger}|0*{whole}\.(?:{'|'.join([*options, f'{digits}[0-9]*'])})"


def _at_most(limit: Fraction) -> str:
    scaled = limit.numerator * 10**_DECIMALS // limit.denominator  # rounded down
    whole, fraction = divmod(scaled, 10**_DECIMALS)
    if not fraction:
        same = r"(?:\.0+)?"
    else:
        digits = f"{fraction:0{_DECIMALS}d}".rstrip("0")
        options = [rf"{digits[:i]}[0-{int(d) - 1}][0-9]*" for i, d in enumerate(digits) if d != "0"]
        options += [digits[:i] for i in range(1, len(digits))]
        same = rf"(?:\.(?:{'|'.join([*options, f'{digits}0*'])}))?"
    smaller = _smaller(str(whole))
    return (rf"0*(?:{smaller})(?:\.[0-9]+)?|" if smaller else "") + rf"0*{whole}{same}"


def _larger(digits: str) -> str:
    """Return a pattern of whole numbers above one, without leading zeros."""
    rest = len(digits)
    options = [
        f"{digits[:i]}[{int(d) + 1}-9]" + f"[0-9]{{{rest - i - 1}}}" * (i < rest - 1)
        for i, d in enumerate(digits)
        if d != "9"
    ]
    return "|".join([*options, f"[1-9][0-9]{{{rest},}}"])


def _smaller(digits: str) -> str:
    """Return a pattern of whole numbers below one, with or without leading zeros. It is empty if there are none."""
    rest = len(digits)
    options = [
        f"{digits[:i]}[0-{int(d) - 1}]" + f"[0-9]{{{rest - i - 1}}}" * (i < rest - 1)
        for i, d in enumerate(digits)
        if d != "0"
    ]
    return "|".join([*options, *([f"[0-9]{{1,{rest - 1}}}"] if rest > 1 else [])])
