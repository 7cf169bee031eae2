"""The keys of `on: {run-metric: …}` beside its filters: the metric, and the condition on it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, PlainValidator, model_validator

from upshot.domain.metric_watch import (
    COMPARISONS,
    MIN_ZSCORE_POINTS,
    Aggregate,
    Change,
    Condition,
    Direction,
    MetricWatch,
    Threshold,
    ZScore,
)
from upshot.numerals import read_decimal
from upshot.schema.yaml_model import TEMPLATE_PATTERN, JsonSchema, YamlModel, is_template, rule
from upshot.unicode_text import find_invisible
from upshot.validation import describe_value, invalid

MAX_METRIC_CHARS = 256
MAX_WINDOW = 1_000  # points
DEFAULT_ZSCORE_PRIOR = 30

#: What a run-metric trigger needs, for messages.
EXAMPLE = "write `run-metric: {metric: val/loss, threshold: {lt: 0.2}}`"
CONDITIONS = ("threshold", "change", "z-score")  #: keys, of which a trigger has one
_METRIC_SCHEMA = {
    "minLength": 1,
    "maxLength": MAX_METRIC_CHARS,
    "pattern": rf"^(?![\s\S]*{TEMPLATE_PATTERN})[^*]*$",
}
_BY_PATTERN = r"^\s*\+?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*%\s*$"


def _check_metric(name: str) -> str | None:
    if is_template(name):
        return "is the name of a metric, not a template"
    if not name or len(name) > MAX_METRIC_CHARS:
        return f"must have 1 to {MAX_METRIC_CHARS} characters"
    if found := find_invisible(name):
        return f"contains the character {found}, which cannot be seen; remove it"
    if "*" in name:
        return "is one metric, not a pattern; write an entry of `on` for each metric"
    return None


class _Amount(NamedTuple):
    """The value of `by`."""

    number: float
    is_relative: bool


def _read_amount(value: Any) -> _Amount:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value > 0:
        return _Amount(float(value), is_relative=False)
    if isinstance(value, str) and value.strip().endswith("%"):
        percent = read_decimal(value.strip().removesuffix("%"))
        if percent is not None and percent > 0:
            return _Amount(percent / 100, is_relative=True)
    raise invalid(f"must be a number above 0, or a part of the value before such as 10%, not {describe_value(value)}")


Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Window = Annotated[int, Field(ge=1, le=MAX_WINDOW)]
Way = Literal["up", "down", "any"]


class ThresholdSchema(YamlModel):
    """`{lt: 0.2}`, or two limits."""

    lt: Number | None = None
    lte: Number | None = None
    gt: Number | None = None
    gte: Number | None = None
    eq: Number | None = None
    ne: Number | None = None

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if not any(getattr(self, word) is not None for word in COMPARISONS):
            raise invalid(f"is empty; write a comparison such as `lt: 0.2` ({', '.join(COMPARISONS)})")
        return self

    def to_condition(self) -> Threshold:
        """Return the condition."""
        limits = ((word, getattr(self, word)) for word in COMPARISONS)
        return Threshold(tuple((word, float(limit)) for word, limit in limits if limit is not None))


class ChangeSchema(YamlModel):
    """`{by: 10%, direction: down, prior-window: 5}`."""

    by: Annotated[
        _Amount,
        PlainValidator(_read_amount),
        JsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": _BY_PATTERN}]}),
    ]
    direction: Way = "any"
    prior_window: Window | None = None  #: None is as long as `window`

    def to_condition(self, window: int) -> Change:
        """Return the condition."""
        return Change(self.by.number, self.by.is_relative, Direction(self.direction), self.prior_window or window)


class ZScoreSchema(YamlModel):
    """`{above: 3, direction: any}`."""

    above: Positive
    direction: Way = "any"
    prior_window: Annotated[int, Field(ge=MIN_ZSCORE_POINTS, le=MAX_WINDOW)] = DEFAULT_ZSCORE_PRIOR

    def to_condition(self) -> ZScore:
        """Return the condition."""
        return ZScore(self.above, Direction(self.direction), self.prior_window)


class MetricWatchSchema(YamlModel):
    """The keys of `run-metric` that are no filters."""

    metric: Annotated[str, rule(_check_metric), JsonSchema(_METRIC_SCHEMA)]
    agg: Literal["avg", "min", "max", "last"] = "avg"
    window: Window = 1
    threshold: ThresholdSchema | None = None
    change: ChangeSchema | None = None
    z_score: ZScoreSchema | None = None

    @model_validator(mode="after")
    def _check_condition(self) -> Self:
        given = [name for name in (self.threshold, self.change, self.z_score) if name is not None]
        if len(given) != 1:
            found = "several" if given else "none"
            raise invalid(f"needs one of {', '.join(CONDITIONS)}, and has {found}; {EXAMPLE}")
        return self

    def to_watch(self) -> MetricWatch:
        """Return what the trigger watches."""
        condition: Condition
        if self.threshold is not None:
            condition = self.threshold.to_condition()
        elif self.change is not None:
            condition = self.change.to_condition(self.window)
        elif self.z_score is not None:
            condition = self.z_score.to_condition()
        else:
            raise AssertionError("the validator requires a condition")
        return MetricWatch(self.metric, condition, Aggregate(self.agg), self.window)
