"""The lineage: what a version was made from, and what was made from it."""

from __future__ import annotations

from upshot.domain.run import Direction, Edge, EdgeKind, Lineage
from upshot.errors import InvalidInput
from upshot.ports.registry import RegistryView
from upshot.registry.lookup import find_version_anywhere
from upshot.registry.transaction import RegistryTransactions

MAX_DEPTH = 50
MAX_NODES = 1_000  #: of one answer
_MAX_EDGES = 5_000  # at one level

#: The edges by which one level leads to the next: from versions to runs, and from runs to versions.
_STEPS = {
    Direction.UP: (EdgeKind.LOGGED, EdgeKind.USED),
    Direction.DOWN: (EdgeKind.USED, EdgeKind.LOGGED),
}


class LineageQueries(RegistryTransactions):
    """Methods for the lineage."""

    def lineage(self, reference: str, direction: Direction, *, depth: int) -> Lineage:
        """
        Follow the lineage of a version.

        `BOTH` is what it was made from and what was made from it, not what else was made from the same.

        Args:
            reference: Reference of a version, or its id.
            direction: Where to.
            depth: Maximum distance in edges.

        Raises:
            InvalidInput: The depth is out of range.
            NotFound: The version does not exist.
        """
        if not 1 <= depth <= MAX_DEPTH:
            raise InvalidInput(f"depth {depth}: must be 1 to {MAX_DEPTH}")

        def work(view: RegistryView) -> Lineage:
            root_id = find_version_anywhere(view, reference).artifact_version.id
            walk = _Walk(view, root_id)
            for step in _STEPS if direction is Direction.BOTH else (direction,):
                walk.follow(step, depth)
            ids = walk.depths.keys()
            runs = view.run_summaries([id_ for id_ in ids if id_ in walk.run_ids])
            versions = view.version_summaries([id_ for id_ in ids if id_ not in walk.run_ids])
            return Lineage(
                root_id=root_id,
                versions=tuple(versions[id_] for id_ in ids if id_ in versions),
                runs=tuple(runs[id_] for id_ in ids if id_ in runs),
                edges=tuple(walk.edges),
                depths=walk.depths,
                is_truncated=walk.is_truncated,
            )

        return self._store.read(work)


class _Walk:
    """A breadth-first search. It asks the store once for each level."""

    def __init__(self, view: RegistryView, root_id: str) -> None:
        self._view = view
        self._root_id = root_id
        self.depths = {root_id: 0}
        self.run_ids: set[str] = set()
        self.edges: dict[Edge, None] = {}
        self.is_truncated = False

    def follow(self, direction: Direction, depth: int) -> None:
        """Add what is reached from the root."""
        from_version, from_run = _STEPS[direction]
        level, seen = [self._root_id], {self._root_id}
        for distance in range(1, depth + 1):
            is_run = distance % 2 == 1  # what this level consists of
            if is_run:
                edges = self._view.edges(from_version, version_ids=level, limit=_MAX_EDGES + 1)
            else:
                edges = self._view.edges(from_run, run_ids=level, limit=_MAX_EDGES + 1)
            self.is_truncated |= len(edges) > _MAX_EDGES
            level = []
            for edge in edges[:_MAX_EDGES]:
                reached = edge.run_id if is_run else edge.version_id
                if reached not in self.depths:
                    if len(self.depths) >= MAX_NODES:
                        self.is_truncated = True
                        continue
                    self.depths[reached] = distance
                    if is_run:
                        self.run_ids.add(reached)
                self.edges[edge] = None
                if reached not in seen:
                    seen.add(reached)
                    level.append(reached)
            if not level:
                break
