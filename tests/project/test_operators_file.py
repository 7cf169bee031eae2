"""What pages show of the operator's file can be written so."""

from __future__ import annotations

import pytest

from tests.project.repository import blocks
from upshot.wiring.jobs_file import load_queue_book

SHOWN = [block for block in blocks("yml") if block.text.startswith(("# jobs.yaml", "machine:", "backends:", "queues:"))]


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_files_on_pages_are_sound(block, tmp_path):
    """Every `yml` block that is an operator's file is one that is accepted."""
    (tmp_path / "jobs.yaml").write_text(block.text)

    book, errors = load_queue_book(tmp_path / "jobs.yaml")

    assert not errors
    assert book.queues


def test_a_file_is_shown():
    """So that the test above looks at something."""
    assert any(block.page.name == "jobs.md" for block in SHOWN)
