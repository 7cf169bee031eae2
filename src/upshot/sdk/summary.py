"""The summary of a run: one value for each metric, the last one unless something else was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from typing_extensions import override

_MISSING = object()


class SummaryValues(Mapping[str, Any]):
    """
    Values by key, also read as attributes. A nested mapping has keys such as `test.loss`, and is read as a mapping.

    Args:
        values: The values.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "_items", dict(values or {}))

    def __repr__(self) -> str:
        return repr(self._items)

    @override
    def __getitem__(self, key: str) -> Any:
        found = self._items.get(key, _MISSING)
        if found is _MISSING:
            prefix = f"{key}."
            nested = {known[len(prefix) :]: value for known, value in self._items.items() if known.startswith(prefix)}
            if not nested:
                raise KeyError(key)
            return SummaryValues(nested)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"the summary has no {name!r}") from error

    @property
    def _json_dict(self) -> dict[str, Any]:
        """The values as a dictionary, by the name that scripts for W&B use."""
        return dict(self._items)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._items))

    @override
    def __len__(self) -> int:
        return len(self._items)


class Summary(SummaryValues):
    """
    The summary of the run of a program. A value that was set by hand stays, whatever is logged later.

    Args:
        convert: Returns the values of a mapping as they are kept, by flat keys. Raises TypeError for other objects.
        on_change: Called with the values that were set by hand, and with the keys that were removed.
    """

    def __init__(
        self,
        convert: Callable[[Mapping[str, Any]], dict[str, Any]],
        on_change: Callable[[dict[str, Any], list[str]], None],
    ) -> None:
        super().__init__()
        object.__setattr__(self, "_convert", convert)
        object.__setattr__(self, "_on_change", on_change)
        object.__setattr__(self, "_by_hand", set())

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __delitem__(self, key: str) -> None:
        found = [known for known in self._items if known == key or known.startswith(f"{key}.")]
        if not found:
            raise KeyError(key)
        self._on_change({}, found)

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError as error:
            raise AttributeError(f"the summary has no {name!r}") from error

    def update(self, d: Mapping[str, Any]) -> None:
        """
        Set values by hand.

        Raises:
            TypeError: A value cannot be kept. The message names its key.
        """
        self._on_change(self._convert(d), [])

    # --- for the run, which holds its lock --------------------------------------------------------

    def set_by_hand(self, values: Mapping[str, Any], removed: list[str]) -> None:
        """Keep values that were set by hand, and forget keys."""
        for key in removed:
            self._items.pop(key, None)
            self._by_hand.discard(key)
        for key in values:  # a mapping replaces a value, and a value a mapping
            for known in [known for known in self._items if known.startswith(f"{key}.")]:
                del self._items[known]
        self._items.update(values)
        self._by_hand.update(values)

    def take_logged(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep values that were logged, and return those that count."""
        if self._by_hand:
            values = {key: value for key, value in values.items() if key not in self._by_hand}
        self._items.update(values)
        return values

    def restore(self, values: Mapping[str, Any]) -> None:
        """Keep the values of a run that is continued."""
        self._items.update(values)
