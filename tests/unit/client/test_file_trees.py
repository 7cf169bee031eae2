"""Trees of files in the cache: pinned while they are in use, whatever happens to the processes that use them."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from upshot.client.file_digest import digest_of
from upshot.client.file_trees import FileTrees
from upshot.domain.manifest import ManifestEntry

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
CONTENT = b"weights"
ENTRIES = [ManifestEntry("sub/model.bin", digest_of(CONTENT), len(CONTENT))]


class Writer:
    """Writes the files of `ENTRIES`, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, root: Path) -> None:
        self.calls += 1
        path = root / "sub" / "model.bin"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(CONTENT)


@pytest.fixture
def trees(tmp_path: Path) -> FileTrees:
    return FileTrees(tmp_path, limit=0)


@pytest.fixture
def write() -> Writer:
    return Writer()


def check() -> None:
    """Wait on."""


def test_a_complete_tree_is_not_written_again(trees, write):
    """Two uses share one tree, which everybody can read and nobody is meant to change."""
    for name in ("one", "two"):
        tree = trees.pin(DIGEST, 7, name)
        trees.fill(tree, ENTRIES, write, check)

    assert write.calls == 1
    assert (tree.files / "sub" / "model.bin").stat().st_mode & 0o777 == 0o444
    assert (tree.files / "sub").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tree.files.iterdir()] == ["sub"]


def test_a_changed_tree_is_verified_again(trees, write):
    """A file that was changed, replaced or removed since the tree was verified does not go unnoticed."""
    tree = trees.pin(DIGEST, 7, "one")
    path = tree.files / "sub" / "model.bin"

    def overwrite() -> None:
        path.chmod(0o644)
        path.write_bytes(b"WEIGHTS")
        os.utime(path, (1, 1))

    for number, change in enumerate((overwrite, path.unlink, lambda: path.rename(path.with_name("x"))), 1):
        trees.fill(tree, ENTRIES, write, check)
        assert write.calls == number
        time.sleep(0.02)  # the file system's clock has steps
        change()
    trees.fill(tree, ENTRIES, write, check)

    assert write.calls == 4
    assert path.read_bytes() == CONTENT


def test_an_interrupted_tree_is_completed(trees, write):
    """What an interrupted download has written stays for the next one, and is not among the files in the end."""

    def interrupted(root: Path) -> None:
        (root / "part").touch()
        raise ConnectionError

    tree = trees.pin(DIGEST, 7, "one")
    with pytest.raises(ConnectionError):
        trees.fill(tree, ENTRIES, interrupted, check)
    assert (tree.files / "part").exists()
    trees.fill(trees.pin(DIGEST, 7, "two"), ENTRIES, write, check)

    assert write.calls == 1
    assert [path.name for path in tree.files.rglob("*") if path.is_file()] == ["model.bin"]


def test_a_pinned_tree_is_not_removed(trees, write, tmp_path):
    """The trees that were not used for the longest time are removed, but none that has a pin."""
    pinned, other = trees.pin(DIGEST, 7, "one"), trees.pin(OTHER, 7, "two")
    trees.fill(pinned, ENTRIES, write, check)
    trees.unpin(["two"])

    FileTrees(tmp_path, limit=0).trim()

    assert pinned.files.exists()
    assert not other.path.exists()
    assert trees.pins() == {"one"}
    trees.unpin(["one", "never made"])
    trees.trim()
    assert not [path for path in (tmp_path / "trees").iterdir() if path.name != ".lock"]


def test_the_limit_decides_how_many_trees_stay(tmp_path, write):
    """The newest trees stay, up to the limit."""
    trees = FileTrees(tmp_path, limit=20)
    made = []
    for number in range(4):
        made.append(trees.pin(f"sha256:{number:064}", 7, "job"))
        trees.unpin(["job"])
        os.utime(made[-1].path / "pins", (number, number))

    trees.trim()

    assert [tree.path.exists() for tree in made] == [False, False, True, True]


def _pin_and_die(folder: Path) -> None:
    FileTrees(folder, limit=0).pin(DIGEST, 7, "job")
    os.kill(os.getpid(), 9)


def test_a_pin_outlives_its_process(tmp_path):
    """A container runs on after `kill -9` of its worker, so its files stay. The worker's successor releases them."""
    process = multiprocessing.get_context("spawn").Process(target=_pin_and_die, args=(tmp_path,))
    process.start()
    process.join()
    successor = FileTrees(tmp_path, limit=0)

    successor.trim()

    assert successor.pins() == {"job"}
    tree = next((tmp_path / "trees").glob("a*"))
    successor.unpin(["job"])
    successor.trim()
    assert not tree.exists()


def test_a_pin_that_nobody_renews_becomes_void(trees, tmp_path):
    """A worker that never comes back does not fill the disk of its machine for good."""
    tree = trees.pin(DIGEST, 7, "lost")
    renewed = trees.pin(OTHER, 7, "long")
    for pin in (tree.path / "pins" / "lost", renewed.path / "pins" / "long"):
        os.utime(pin, (1, 1))
    trees.renew(["long"])

    trees.trim()

    assert not tree.path.exists()
    assert renewed.path.exists()


def _hold(folder: Path, ready: object, may_end: object) -> None:
    trees = FileTrees(folder, limit=0)
    tree = trees.pin(DIGEST, 7, "first")

    def write(root: Path) -> None:
        ready.set()  # type: ignore[attr-defined]  # an event of multiprocessing has no type of its own
        may_end.wait()  # type: ignore[attr-defined]
        Writer()(root)

    trees.fill(tree, ENTRIES, write, check)


def test_two_processes_write_a_tree_once(tmp_path, write):
    """The second process waits for the first, and it can stop waiting."""
    context = multiprocessing.get_context("spawn")
    ready, may_end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, may_end))
    process.start()
    ready.wait()
    trees = FileTrees(tmp_path, limit=0)
    tree = trees.pin(DIGEST, 7, "second")
    checks = 0

    def check_once() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            may_end.set()

    with pytest.raises(InterruptedError):
        trees.fill(tree, ENTRIES, write, _interrupt)
    trees.fill(tree, ENTRIES, write, check_once)
    process.join()

    assert write.calls == 0
    assert (tree.files / "sub" / "model.bin").read_bytes() == CONTENT


def _interrupt() -> None:
    raise InterruptedError
