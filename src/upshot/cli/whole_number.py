"""The parameter type of commands for whole numbers."""

from __future__ import annotations

from typing import Any

import click
from typing_extensions import override

from upshot.numerals import read_whole


class WholeNumber(click.IntRange):
    """A whole number: ASCII digits without separators, unlike click's own type."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and read_whole(value) is None:
            self.fail(f"{value!r} is not a whole number; write digits only", param, ctx)
        return super().convert(value, param, ctx)
