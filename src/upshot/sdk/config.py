"""The configuration of a run: values that a program sets before or while it trains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from typing_extensions import override

from upshot.sdk.json_values import check_size, to_json_value
from upshot.sdk.notebook import in_notebook
from upshot.sdk.sdk_errors import InvalidArgument


class Config(Mapping[str, Any]):
    """
    A mapping that is also read and written by attributes. Values become JSON when they are set.

    A key that has another value already cannot be changed, except in a notebook, or with `allow_val_change=True`.

    Args:
        values: The first values: a mapping or a namespace.
        allow_val_change: Whether a value may be changed, where `update` does not say it.
        on_change: Called with the values that were set.
    """

    def __init__(
        self,
        values: object = None,
        *,
        allow_val_change: bool | None = None,
        on_change: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        own: dict[str, Any] = {
            "_items": {},
            "_allow": allow_val_change,
            "_on_change": on_change,
            "_lock": threading.RLock(),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)
        self._set(values, allow=True)

    def __repr__(self) -> str:
        return repr(self._items)

    @override
    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._items[name]
        except KeyError as error:
            raise AttributeError(f"the config has no {name!r}") from error

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._items))

    @override
    def __len__(self) -> int:
        return len(self._items)

    def __setitem__(self, key: str, value: Any) -> None:
        self._set({key: value}, allow=None)

    def __setattr__(self, name: str, value: Any) -> None:
        self._set({name: value}, allow=None)

    def update(self, d: object, allow_val_change: bool | None = None) -> None:
        """
        Set values.

        Args:
            d: A mapping, a namespace, or the config of another run.
            allow_val_change: Whether keys that have another value may be changed.

        Raises:
            ValueError: A key has another value, or a value is not JSON. Nothing is set then.
        """
        self._set(d, allow=allow_val_change)

    def setdefaults(self, d: object) -> None:
        """Set the values of those keys that have none."""
        with self._lock:
            self._set({key: value for key, value in read_mapping(d).items() if key not in self._items}, allow=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the values as a dictionary."""
        return dict(self._items)

    def _set(self, values: object, *, allow: bool | None) -> None:
        new = {_key(key): to_json_value(value, f"config.{key}") for key, value in read_mapping(values).items()}
        if not new:
            return
        with self._lock:
            if allow is None:
                allow = self._allow
            if not (in_notebook() if allow is None else allow):
                for key, value in new.items():
                    if key in self._items and self._items[key] != value:
                        raise InvalidArgument(
                            f"config.{key}: it is {self._items[key]!r}, and cannot become {value!r}; call "
                            "config.update({…}, allow_val_change=True) to change it"
                        )
            check_size({**self._items, **new}, "config")
            self._items.update(new)
        if self._on_change is not None:
            self._on_change(new)


def read_mapping(values: object) -> Mapping[Any, Any]:
    """
    Return the values of a mapping, of an `argparse.Namespace`, or of absl's flags.

    Raises:
        InvalidArgument: It is something else.
    """
    if values is None:
        return {}
    if isinstance(values, Mapping):
        return values
    if callable(read_flags := getattr(values, "flag_values_dict", None)):
        flags: Mapping[Any, Any] = read_flags()
        return flags
    if hasattr(values, "__dict__") and not isinstance(values, type):
        return vars(values)
    raise InvalidArgument(f"config: must be a mapping or a namespace, not a {type(values).__name__}")


def _key(key: object) -> str:
    if not isinstance(key, str):
        key = str(key)
    name = key.strip("-")
    if not name:
        raise InvalidArgument(f"config: key {key!r} is empty; write a name")
    return name
