"""What `define_metric` says: the axis of a metric, and which of its values the summary has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from upshot.sdk.sdk_errors import InvalidArgument

_OPERATIONS = ("min", "max", "mean", "last", "first", "none")
_UNUSED = frozenset({"copy", "best"})  # older names of W&B, which are the last value


@dataclass(frozen=True, slots=True)
class Metric:
    """The definition of a metric, or of all metrics whose name begins alike."""

    name: str  #: with `*` at its end: of all metrics whose name begins with the rest
    step_metric: str | None = None
    step_sync: bool | None = None
    hidden: bool | None = None
    summary: tuple[str, ...] = ()
    overwrite: bool | None = None

    def matches(self, key: str) -> bool:
        """Return whether it defines this metric."""
        return key == self.name or (self.name.endswith("*") and key.startswith(self.name[:-1]))

    def to_json(self) -> dict[str, Any]:
        """Return what a run records about it."""
        found = {"step_metric": self.step_metric, "summary": ",".join(self.summary) or None, "hidden": self.hidden}
        return {key: value for key, value in found.items() if value is not None}


def read_metric(
    name: str,
    step_metric: str | Metric | None,
    step_sync: bool | None,
    hidden: bool | None,
    summary: str | None,
    overwrite: bool | None,
) -> Metric:
    """
    Return the definition that the arguments of `define_metric` describe.

    Raises:
        InvalidArgument: One is invalid.
    """
    if isinstance(step_metric, Metric):
        step_metric = step_metric.name
    for argument, value, kind in (
        ("name", name, str),
        ("step_metric", step_metric, str),
        ("step_sync", step_sync, bool),
        ("hidden", hidden, bool),
        ("summary", summary, str),
        ("overwrite", overwrite, bool),
    ):
        if value is not None and not isinstance(value, kind):
            raise InvalidArgument(f"define_metric({argument}={value!r}): must be a {kind.__name__}")
    if not name:
        raise InvalidArgument("define_metric: the name is empty")
    if "*" in name[:-1]:
        raise InvalidArgument(f"define_metric({name!r}): `*` may stand at the end only, such as 'val/*'")
    operations = []
    for operation in (summary or "").lower().split(",") if summary else ():
        if operation.strip() not in {*_OPERATIONS, *_UNUSED}:
            raise InvalidArgument(
                f"define_metric({name!r}, summary={summary!r}): {operation.strip()!r} is unknown; write one of "
                f"{', '.join(_OPERATIONS)}"
            )
        operations.append("last" if operation.strip() in _UNUSED else operation.strip())
    return Metric(name, step_metric, step_sync, hidden, tuple(dict.fromkeys(operations)), overwrite)


@dataclass(slots=True)
class _Values:
    """What a summary needs of the values of a metric that were logged."""

    first: Any = None
    minimum: float = math.inf
    maximum: float = -math.inf
    total: float = 0.0
    count: int = 0

    def add(self, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            return
        if not self.count:
            self.first = value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        self.total += value
        self.count += 1

    def read(self, operation: str, last: Any) -> Any:
        if operation == "last" or not self.count:
            return last
        results = {
            "first": self.first,
            "min": self.minimum,
            "max": self.maximum,
            "mean": self.total / self.count,
        }
        return results[operation]


@dataclass(slots=True)
class Definitions:
    """The metrics of a run that were defined."""

    metrics: dict[str, Metric] = field(default_factory=dict)  #: by name
    _of_key: dict[str, tuple[tuple[str, ...], str | None]] = field(default_factory=dict)
    _values: dict[str, _Values] = field(default_factory=dict)
    _axes: dict[str, Any] = field(default_factory=dict)  # last value of each metric that is an axis

    def define(self, metric: Metric) -> None:
        """Add a definition, or change what an earlier one says."""
        before = self.metrics.get(metric.name)
        if before is not None and not metric.overwrite:
            metric = Metric(
                metric.name,
                metric.step_metric or before.step_metric,
                before.step_sync if metric.step_sync is None else metric.step_sync,
                before.hidden if metric.hidden is None else metric.hidden,
                metric.summary or before.summary,
            )
        self.metrics[metric.name] = metric
        self._of_key.clear()
        if metric.step_metric is not None:
            self._axes.setdefault(metric.step_metric, None)

    def to_json(self) -> dict[str, Any]:
        """Return what a run records about its metrics."""
        return {name: metric.to_json() for name, metric in self.metrics.items()}

    def add_axes(self, values: dict[str, Any]) -> None:
        """Add the last value of its axis to the values of a step, for each metric that has an axis."""
        for axis in self._axes:
            if axis in values:
                self._axes[axis] = values[axis]
        for key in tuple(values):
            found = self._find(key)[1]
            if found is not None and found not in values and self._axes.get(found) is not None:
                values[found] = self._axes[found]

    def to_summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the summary after these were logged."""
        found: dict[str, Any] = {}
        for key, value in values.items():
            operations = self._find(key)[0]
            if not operations:
                found[key] = value
                continue
            seen = self._values.setdefault(key, _Values())
            seen.add(value)
            kept = [operation for operation in operations if operation != "none"]
            for operation in kept:
                found[key if len(kept) == 1 else f"{key}.{operation}"] = seen.read(operation, value)
        return found

    def _find(self, key: str) -> tuple[tuple[str, ...], str | None]:
        """Return the operations and the axis of a metric: those of its name, or of the longest name with `*`."""
        found = self._of_key.get(key)
        if found is None:
            matching = sorted((metric for metric in self.metrics.values() if metric.matches(key)), key=_precision)
            operations: tuple[str, ...] = ()
            axis = None
            for metric in matching:
                operations = metric.summary or operations
                if metric.step_metric is not None and metric.step_sync is not False:
                    axis = metric.step_metric
            found = self._of_key[key] = (operations, None if axis == key else axis)
        return found


def _precision(metric: Metric) -> tuple[bool, int]:
    return not metric.name.endswith("*"), len(metric.name)
