"""The examples of the operator's jobs file on the documentation pages are valid."""

from __future__ import annotations

import pytest

from tests.project.repository import blocks
from upshot.wiring.jobs_file import load_jobs_config

EXAMPLES = [
    block for block in blocks("yml") if block.text.startswith(("# jobs.yaml", "machine:", "backends:", "queues:"))
]


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_jobs_files_on_pages_are_valid(block, tmp_path):
    """Upshot accepts every `yml` block that shows a jobs file."""
    (tmp_path / "jobs.yaml").write_text(block.text)

    book, errors = load_jobs_config(tmp_path / "jobs.yaml")

    assert not errors
    assert book.queues


def test_a_jobs_file_is_shown():
    """docs/jobs.md shows a jobs file, so that the test above checks something."""
    assert any(block.page.name == "jobs.md" for block in EXAMPLES)
