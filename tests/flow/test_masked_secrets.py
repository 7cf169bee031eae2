"""What an execution stores contains no secret that it has used, whatever a receiver answers."""

from __future__ import annotations

import json

import pytest

from upshot.errors import Unavailable
from upshot.testing import World

TOKEN = "tok_" + "Zq9" * 20
TWO_STEPS = """
name: two-steps
on: {custom: {name: go}}
steps:
  - {uses: webhook, with: {url: "https://one.example.com/", headers: {X-Token: "{{ secrets.TOKEN }}"}}}
  - {id: second, uses: webhook, with: {url: "https://two.example.com/", json: {}}}
on-failure:
  - {uses: webhook, with: {url: "https://three.example.com/", json: {reason: "{{ failure.reason }}"}}}
"""


def stored(world: World) -> str:
    """Return everything that is stored about the only execution, and what was sent after its failure."""
    (execution,) = world.all_executions()
    return f"{execution} {world.receipts(execution)} {[request.body for request in world.sent[2:]]}"


@pytest.fixture
def world() -> World:
    world = World(secrets={"TOKEN": TOKEN, "HOST": "t0p-s3cret-host"})
    world.apply(TWO_STEPS)
    return world


@pytest.mark.parametrize("status", [200, 404])
def test_a_later_step_masks_the_secrets_of_earlier_steps(world, status):
    """The second step does not name the secret. Its receiver got it from the first one, and repeats it."""
    world.respond("https://two", status=status, body=json.dumps({"seen": TOKEN, "also": [TOKEN]}).encode())
    world.emit("go")
    world.run_until_idle()

    assert "Zq9" not in stored(world)
    assert "***" in stored(world)


@pytest.mark.parametrize("length", [190, 185, 197, 16 * 1024 - 10])
@pytest.mark.parametrize("status", [200, 404, 302])
def test_a_secret_that_is_cut_is_masked(world, status, length):
    """A reason has about one line of the body, and a receipt has 16 KB. Both can end within a secret."""
    location = "https://elsewhere.example.com/" + "y" * 160 + TOKEN
    world.respond("https://two", status=status, body=("x" * length + TOKEN).encode(), headers={"location": location})
    world.emit("go")
    world.run_until_idle()

    assert "Zq9Zq9" not in stored(world)


def test_a_crash_of_an_action_is_logged_without_secrets(world, capsys):
    """The trace of a bug can contain a secret."""
    world.respond("https://two", error=TypeError(f"unexpected {TOKEN}"))
    world.emit("go")
    world.run_until_idle()

    assert "Zq9" not in stored(world)
    logged = capsys.readouterr()
    assert "Zq9" not in logged.out + logged.err


def test_a_database_error_is_shown_without_secrets(world):
    """The reason of a wait is masked like any other."""
    world.respond("https://two", error=Unavailable(f"cannot store {TOKEN}"))
    world.emit("go")
    world.run_until_idle()

    assert "cannot store ***" in stored(world)
    assert "Zq9" not in stored(world)


def test_the_older_value_of_a_secret_is_masked(world):
    """A secret is rotated between two attempts, and the receiver still repeats the old value."""
    world.respond("https://one", status=503, times=1)
    world.emit("go")
    world.run_until_idle()
    world._secrets._secrets["TOKEN"] = "another-value"
    world.respond("https://two", status=404, body=f"another-value {TOKEN}".encode())
    world.clock.advance(seconds=600)
    world.run_until_idle()

    assert "404" in stored(world)
    assert "Zq9" not in stored(world)
    assert "another-value" not in stored(world)


def test_a_template_cannot_give_another_value_to_secrets():
    """A receipt hides the secrets that templates name, so that name always has the same meaning."""
    with pytest.raises(Exception, match="'secrets' cannot be another value"):
        World().apply(
            "name: a\non: {custom: {name: go}}\nsteps:\n"
            "  - {uses: webhook, with: {url: https://example.com, json: '{{ secrets.T }}{% set secrets = 1 %}'}}\n"
        )
