"""
The steps that a run logs: the values of `run.log`, as texts that are ready to be sent.

`log` does as little as it can, because a training loop waits for it: it checks the values, writes the JSON of the
step and puts it into a list. `take` empties the list, for the request that a thread sends.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from upshot.clock import SystemClock
from upshot.sdk.connection import say, say_once
from upshot.sdk.media.image import figure_as_png
from upshot.sdk.media.media_file import AddFile, Media, has_no_dimensions, media_path, with_named_numbers
from upshot.sdk.media.png import size_of_png
from upshot.sdk.metrics import Definitions, Metric
from upshot.sdk.summary import Summary
from upshot.unicode_text import to_storable_text

MAX_REQUEST_VALUES = 5_000  # the server takes 10,000 in a request, with those of the summary
_MAX_REQUEST_CHARS = 1_000_000
_MAX_VALUE_CHARS = 262_144  # what the server takes; a larger value is left out
_MAX_KEY_CHARS = 512
_RESERVED_KEYS = frozenset({"_step", "_timestamp"})  # columns of the history
_MAX_DEPTH = 16
_MAX_STEP = 2**53
_INTEGERS = range(-(2**63), 2**63)

_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


class Steps:
    """
    The steps of a run that are not sent yet, and its summary.

    Args:
        add_file: Adds a file to the run, for media.
        on_full: Called when there is enough for a request.
    """

    def __init__(self, *, add_file: AddFile, on_full: Callable[[], None]) -> None:
        self.step = 0  #: of the next call of `log`
        self.summary = Summary(self.convert, self._set_summary)
        self._add_file = add_file
        self._on_full = on_full
        self._clock = SystemClock()
        self._known_keys: dict[str, str] = {}  # checked keys, with what they are kept as
        self._definitions = Definitions()
        self._has_definitions = False
        self._has_dropped = False
        self.renew_lock()
        # The step that is not complete yet: its values, and which of them were not taken yet.
        self._values: dict[str, Any] = {}
        self._time = 0.0
        # Complete steps, as JSON, and how many values they have.
        self._rows: list[tuple[str, int]] = []
        self._row_values = 0
        self._row_chars = 0
        self._summary_changes: dict[str, Any] = {}
        self._config_changes: dict[str, Any] = {}

    def renew_lock(self) -> None:
        """Use a new lock: in a forked process, nobody releases the one that another thread held."""
        self._lock = threading.RLock()

    # --- log --------------------------------------------------------------------------------------

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        """
        Add values to a step. See `Run.log`.

        Raises:
            TypeError: A value cannot be kept. The message names its key.
        """
        if step is not None:
            step = _to_step(step)
        with self._lock:
            if step is not None and step != self.step:
                if step < self.step:
                    self._drop(step)
                    return
                self._complete()
                self.step = step
            values = self.convert(data)
            now = self._clock.now().timestamp()
            if not self._values:
                self._time = now
                self._values = values
            else:
                self._values.update(values)
            if commit or (commit is None and step is None):
                self._complete()
                self.step += 1

    def _drop(self, step: int) -> None:
        if not self._has_dropped:
            self._has_dropped = True
            say(
                f"log(step={step}): the run is at step {self.step}, so these values were dropped, and so are all later "
                "ones of earlier steps; use define_metric(…, step_metric=…) for an axis of your own"
            )

    def _complete(self) -> None:
        """Add the step to those that are complete. The caller holds the lock."""
        values = self._values
        if not values:
            return
        self._values = {}
        if self._has_definitions:
            self._definitions.add_axes(values)
            summary = self._definitions.to_summary(values)
        else:
            summary = values
        self._summary_changes.update(self.summary.take_logged(summary))
        if len(values) > MAX_REQUEST_VALUES:
            items = list(values.items())
            for start in range(0, len(items), MAX_REQUEST_VALUES):
                self._add_row(dict(items[start : start + MAX_REQUEST_VALUES]))
        else:
            self._add_row(values)

    def _add_row(self, values: dict[str, Any]) -> None:
        row = f'{{"step":{self.step},"time":{self._time!r},"values":{encode_values(values)}}}'
        self._rows.append((row, len(values)))
        self._row_values += len(values)
        self._row_chars += len(row)
        if self._row_values >= MAX_REQUEST_VALUES or self._row_chars >= _MAX_REQUEST_CHARS:
            self._on_full()

    # --- what is sent -----------------------------------------------------------------------------

    def take(self, *, age_seconds: float) -> list[str]:
        """
        Return what was logged since the last call, as bodies of requests without session and sequence.

        Args:
            age_seconds: Also take the values of a step that is not complete, if it began so long ago.
        """
        with self._lock:
            if self._values and not -1 < self._clock.now().timestamp() - self._time < age_seconds:
                # What is added to this step later is a second row of it.
                self._complete()
            if not (self._rows or self._summary_changes or self._config_changes):
                return []
            rows, summary, config = self._rows, self._summary_changes, self._config_changes
            self._rows, self._summary_changes, self._config_changes = [], {}, {}
            self._row_values = self._row_chars = 0
        bodies = [f'"rows":[{",".join(group)}]' for group in _groups(rows)]
        changes = [f'"summary":{encode_values(dict(group))}' for group in _parts(summary)]
        if config:
            changes.append(f'"config":{encode_values(config)}')
        if bodies and len(summary) <= MAX_REQUEST_VALUES:
            bodies[-1] = ",".join([bodies[-1], *changes])
            return bodies
        if config and len(changes) > 1:
            changes[-2:] = [f"{changes[-2]},{changes[-1]}"]
        return bodies + changes

    def change_config(self, values: Mapping[str, Any]) -> None:
        """Send values of the config with the next request."""
        with self._lock:
            self._config_changes.update(values)

    def _set_summary(self, values: dict[str, Any], removed: list[str]) -> None:
        with self._lock:
            self.summary.set_by_hand(values, removed)
            self._summary_changes.update(dict.fromkeys(removed))
            self._summary_changes.update(values)
            is_full = len(self._summary_changes) >= MAX_REQUEST_VALUES
        if is_full:
            self._on_full()

    def define(self, metric: Metric) -> dict[str, Any]:
        """Add the definition of a metric, and return all definitions."""
        with self._lock:
            self._definitions.define(metric)
            self._has_definitions = True
            return self._definitions.to_json()

    # --- values -----------------------------------------------------------------------------------

    def convert(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return values as they are kept, by flat keys.

        Raises:
            TypeError: It is not a mapping with texts as keys, or a value cannot be kept. The message names its key.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"log: pass a mapping such as {{'loss': 0.5}}, not a {type(data).__name__}")
        known = self._known_keys
        values: dict[str, Any] = {}
        for key, value in data.items():
            kind = type(value)
            if key in known and (kind is float or kind is bool or (kind is int and value in _INTEGERS)):
                values[known[key]] = value
            else:
                if not isinstance(key, str):
                    raise TypeError(f"log: key {key!r} is a {type(key).__name__}; write keys as texts")
                self._convert_value(key, value, values, 1)
        return values

    def _convert_value(self, key: str, value: Any, values: dict[str, Any], depth: int) -> None:
        """Add a value of any kind by its flat key."""
        if isinstance(value, Mapping) and value:
            if depth > _MAX_DEPTH:
                raise TypeError(f"{key}: nested deeper than {_MAX_DEPTH} levels")
            for inner, item in value.items():
                self._convert_value(f"{key}.{inner}", item, values, depth + 1)
            return
        if key in _RESERVED_KEYS:
            say_once(f"log: {key!r} was left out: the history has a column of this name; choose another key")
            return
        kept_as = self._known_keys.get(key)
        if kept_as is None:
            kept_as = _to_key(key)
            self._known_keys[key] = kept_as
        found = self._plain(key, value, depth)
        if isinstance(found, str | list) and (size := len(_to_json(with_named_numbers(found)))) > _MAX_VALUE_CHARS:
            say_once(
                f"log: {key!r} has {size:,} bytes, and at most {_MAX_VALUE_CHARS:,} are kept; it was left out. Use "
                "save() or an artifact for large values"
            )
            return
        values[kept_as] = found

    def _plain(self, key: str, value: Any, depth: int) -> Any:  # noqa: C901 - one branch for each kind of value
        """Return what is kept of a value."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value in _INTEGERS else _large(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str):
            return to_storable_text(str(value))
        if isinstance(value, Media):
            return value.store(key, self.step, self._add_file)
        if isinstance(value, Mapping):
            return {str(inner): self._plain(f"{key}.{inner}", item, depth + 1) for inner, item in value.items()}
        if isinstance(value, list | tuple):
            if depth > _MAX_DEPTH:
                raise TypeError(f"{key}: nested deeper than {_MAX_DEPTH} levels")
            return [self._plain(f"{key}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        if callable(getattr(value, "savefig", None)):
            return self._store_figure(key, value)
        if has_no_dimensions(value):
            item = value.item()
            if item is None or isinstance(item, bool | int | float | str):
                return self._plain(key, item, depth)
        raise TypeError(
            f"log: {key!r} is a {type(value).__name__}, which cannot be logged; pass a number, a text, a Table or an "
            "Image"
        )

    def _store_figure(self, key: str, figure: Any) -> dict[str, Any]:
        content = figure_as_png(figure)
        path, digest = media_path("images", key, self.step, content, ".png")
        self._add_file(path, content)
        width, height = size_of_png(content) or (None, None)
        return {
            "_type": "image",
            "path": path,
            "digest": digest,
            "size": len(content),
            "width": width,
            "height": height,
            "caption": None,
        }


def encode_values(values: dict[str, Any]) -> str:
    """Return values as JSON. NaN and infinity are texts: `NaN`, `Infinity`, `-Infinity`."""
    try:
        return _to_json(values)
    except ValueError:
        return _to_json(with_named_numbers(values))


def _groups(rows: list[tuple[str, int]]) -> list[list[str]]:
    """Return rows in groups that a request may have."""
    groups: list[list[str]] = []
    chars = values = 0
    for row, count in rows:
        if not groups or chars + len(row) > _MAX_REQUEST_CHARS or values + count > MAX_REQUEST_VALUES:
            groups.append([])
            chars = values = 0
        groups[-1].append(row)
        chars += len(row)
        values += count
    return groups


def _parts(values: dict[str, Any]) -> list[list[tuple[str, Any]]]:
    items = list(values.items())
    return [items[start : start + MAX_REQUEST_VALUES] for start in range(0, len(items), MAX_REQUEST_VALUES)]


def _to_key(key: str) -> str:
    """Return the key as the server keeps it."""
    if not key:
        raise TypeError("log: a key is empty; write a name")
    kept_as = to_storable_text(key)
    if len(kept_as) > _MAX_KEY_CHARS:
        raise TypeError(f"log: key {key[:60]!r}… has {len(key)} characters; at most {_MAX_KEY_CHARS} are allowed")
    return kept_as


def _to_step(step: Any) -> int:
    if isinstance(step, bool) or not (isinstance(step, int | float) or has_no_dimensions(step)):
        raise TypeError(f"log(step={step!r}): a step is a whole number, not a {type(step).__name__}")
    number = step.item() if callable(getattr(step, "item", None)) else step
    if isinstance(number, float) and not (math.isfinite(number) and number.is_integer()):
        raise TypeError(f"log(step={step!r}): a step is a whole number")
    if number > _MAX_STEP:
        raise TypeError(f"log(step={step!r}): a step is at most {_MAX_STEP:,}")
    return int(number)


def _large(value: int) -> Any:
    try:
        return float(value)
    except OverflowError:
        return "Infinity" if value > 0 else "-Infinity"
