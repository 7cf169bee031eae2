"""The files of runs: media, code and whatever a program saves. Their bytes are blobs."""

from __future__ import annotations

from collections.abc import Sequence

from upshot.domain.event import Origin
from upshot.domain.manifest import ManifestEntry
from upshot.domain.run import RunFile
from upshot.errors import Conflict, NotFound
from upshot.ports.paging import Page
from upshot.ports.registry import RegistryView
from upshot.registry.inputs import MAX_FILES, check_files
from upshot.registry.mutation import Mutation
from upshot.registry.run_lookup import find_run
from upshot.registry.transaction import RegistryTransactions, run_lock


class RunFiles(RegistryTransactions):
    """Methods for the files of runs."""

    def add_run_files(
        self, project: str, run_id: str, files: Sequence[ManifestEntry], *, origin: Origin
    ) -> tuple[str, ...]:
        """
        Add files to a run. A file with the same path is replaced. A file is visible once its blob is stored.

        Returns:
            Digests whose blobs are not stored yet.

        Raises:
            Conflict: The run would have too many files.
            InvalidInput: A path, a digest or a size is invalid.
            NotFound: The run does not exist.
        """
        check_files(files)

        def work(mutation: Mutation) -> tuple[str, ...]:
            run = find_run(mutation.tx, project, run_id)
            added = [RunFile(file.path, file.digest, file.size or 0, mutation.now) for file in files]
            mutation.tx.save_run_files(run.summary.id, added)
            if mutation.tx.count_run_files(run.summary.id) > MAX_FILES:
                raise Conflict(f"run {run.summary.reference} would have more than {MAX_FILES:,} files; log an artifact")
            return tuple(sorted(mutation.tx.use_blobs(sorted({file.digest for file in files}), mutation.now)))

        return self._change(work, locks=[run_lock(project, run_id)], origin=origin).value

    def run_files(self, project: str, run_id: str, *, cursor: str | None, limit: int) -> Page[RunFile]:
        """
        Return the files of a run, by path.

        Raises:
            NotFound: The run does not exist.
        """

        def work(view: RegistryView) -> Page[RunFile]:
            return view.page_run_files(find_run(view, project, run_id).summary.id, cursor=cursor, limit=limit)

        return self._store.read(work)

    def run_file(self, project: str, run_id: str, path: str) -> RunFile:
        """
        Return a file of a run.

        Raises:
            NotFound: The run or the file does not exist, or its bytes have not arrived.
        """

        def work(view: RegistryView) -> RunFile:
            run = find_run(view, project, run_id)
            if found := view.run_file(run.summary.id, path):
                return found
            raise NotFound(f"run {run.summary.reference} has no file {path[:200]!r}, or its bytes have not arrived")

        return self._store.read(work)
