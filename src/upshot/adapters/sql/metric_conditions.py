"""States of conditions on metrics of runs in SQL."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql.schema import metric_conditions
from upshot.ports.metric_watches import ConditionState, ConditionStates

_SELECT = sa.select(metric_conditions).where(metric_conditions.c.run_id == sa.bindparam("run"))


def _save(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["run_id", "automation", "condition_id"],
        set_={name: insert.excluded[name] for name in ("is_true", "recent", "updated_at")},
    )


_SAVE: Mapping[str, Any] = {
    "sqlite": _save(sqlite.insert(metric_conditions)),
    "postgresql": _save(postgresql.insert(metric_conditions)),
}


class SqlConditionStates(ConditionStates):
    """`ConditionStates` on the connection of a transaction."""

    _connection: Connection

    @override
    def condition_states(self, run: str) -> tuple[ConditionState, ...]:
        rows = self._connection.execute(_SELECT, {"run": run})
        return tuple(
            ConditionState(row.automation, row.condition_id, row.is_true, _numbers(row.recent), row.updated_at)
            for row in rows
        )

    @override
    def save_condition_states(self, run: str, states: Iterable[ConditionState]) -> None:
        rows = [
            {
                "run_id": run,
                "automation": state.automation,
                "condition_id": state.condition_id,
                "is_true": state.is_true,
                "recent": array("d", state.recent).tobytes(),
                "updated_at": state.updated_at,
            }
            for state in states
        ]
        if rows:
            self._connection.execute(_SAVE[self._connection.dialect.name], rows)


def _numbers(data: bytes) -> tuple[float, ...]:
    numbers = array("d")
    numbers.frombytes(data)
    return tuple(numbers)
