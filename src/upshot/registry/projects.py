"""List and rename projects."""

from __future__ import annotations

from upshot.domain.event import Origin
from upshot.domain.reference import check_name
from upshot.domain.registry import Change
from upshot.errors import AlreadyExists
from upshot.ports.paging import Page
from upshot.registry.lookup import find_project
from upshot.registry.mutation import Mutation
from upshot.registry.protection import require_admin
from upshot.registry.scopes import check_scope_is_free
from upshot.registry.transaction import RegistryTransactions, scope_lock


class Projects(RegistryTransactions):
    """Methods for projects."""

    def projects(self, *, cursor: str | None, limit: int) -> Page[str]:
        """Return the names of projects, sorted."""
        return self._store.read(lambda view: view.page_projects(cursor=cursor, limit=limit))

    def rename_project(self, name: str, new_name: str, *, origin: Origin) -> Change[str]:
        """
        Rename a project. Its artifacts keep their ids, versions and links.

        Raises:
            Forbidden: The actor is not an admin.
            AlreadyExists: Another project has the new name.
            Conflict: A registry has the new name.
        """
        new_name = check_name(new_name, "project")
        require_admin(origin.actor, f"rename project {name!r}")

        def work(mutation: Mutation) -> str:
            tx = mutation.tx
            stored = find_project(tx, name)
            if new_name == stored:
                return stored
            if tx.has_project(new_name):
                raise AlreadyExists(f"project {new_name!r} already exists; choose another name")
            check_scope_is_free(tx, new_name, "project")
            tx.rename_project(stored, new_name)
            mutation.add_history("rename-project", new_name, before={"name": stored}, after={"name": new_name})
            return new_name

        return self._change(work, locks=[scope_lock(name), scope_lock(new_name)], origin=origin)
