"""List the runs of a project, filtered and sorted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any

import orjson

from upshot.domain.run import Run
from upshot.errors import InvalidInput
from upshot.ports.registry import RegistryView
from upshot.ports.run_history import RunCandidate
from upshot.registry.lookup import find_project
from upshot.registry.run_filters import RunFilter, RunOrder
from upshot.registry.transaction import RegistryTransactions


@dataclass(frozen=True, slots=True)
class RunList:
    """Runs of a project."""

    runs: Sequence[Run]
    position: str | None  #: where the next page begins; None if there is none


class RunLists(RegistryTransactions):
    """Methods that list runs."""

    def runs(self, project: str, where: RunFilter, *, after: str | None = None, limit: int) -> RunList:
        """
        Return runs of a project that match, in the requested order.

        Args:
            project: Name of the project.
            where: Which runs, and their order.
            after: Position of the previous page.
            limit: Maximum number of runs.

        Raises:
            InvalidInput: The position is not one of this order.
            NotFound: The project does not exist.
        """

        def work(view: RegistryView) -> RunList:
            candidates = view.run_candidates(find_project(view, project), where.sources)
            matching = (run for run in candidates if where.matches(run))
            found, position = (
                _newest(matching, after, limit)
                if where.order is None
                else _sorted(matching, where.order, after=after, limit=limit)
            )
            runs = view.runs(found)
            return RunList(tuple(runs[id_] for id_ in found), position)

        return self._store.read(work)


def _newest(candidates: Iterable[RunCandidate], after: str | None, limit: int) -> tuple[list[str], str | None]:
    """Return the ids of a page of runs that come newest first."""
    later = (run.id for run in candidates if after is None or run.id < after)
    found = list(islice(later, limit + 1))
    return found[:limit], found[limit - 1] if len(found) > limit else None


def _sorted(
    candidates: Iterable[RunCandidate], order: RunOrder, *, after: str | None, limit: int
) -> tuple[list[str], str | None]:
    """Return the ids of a page of sorted runs. Equal runs come newest first."""
    keyed = [(order.key(run), run.id) for run in candidates]  # newest first, and sorting keeps that
    found: list[tuple[Any, str]] = [pair for pair in keyed if pair[0] is not None]
    found.sort(key=itemgetter(0), reverse=order.descending)
    found += [pair for pair in keyed if pair[0] is None]
    if after is not None:
        key, id_ = _position(after)
        found = [pair for pair in found if _comes_after(pair, (key, id_), descending=order.descending)]
    page = found[:limit]
    position = orjson.dumps(page[-1]).decode() if len(found) > limit else None
    return [id_ for _, id_ in page], position


def _position(text: str) -> tuple[Any, str]:
    try:
        key, id_ = orjson.loads(text)
        key = None if key is None else (int(key[0]), key[1])
    except (ValueError, TypeError, IndexError) as error:
        raise InvalidInput("cursor: it is not of a list in this order; pass the `next` of the previous page") from error
    return key, str(id_)


def _comes_after(pair: tuple[Any, str], last: tuple[Any, str], *, descending: bool) -> bool:
    key, last_key = pair[0], last[0]
    if key == last_key:
        return pair[1] < last[1]
    if key is None or last_key is None:
        return key is None
    try:
        return bool(key < last_key if descending else key > last_key)
    except TypeError as error:
        raise InvalidInput("cursor: it is not of a list in this order; pass the `next` of the previous page") from error
