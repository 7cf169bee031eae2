"""Expensive templates are rendered in a process of their own, which cannot take the worker with it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.automations.factories import custom_event, make_context, make_event
from upshot.automations import rendering
from upshot.automations.context import DeferredSecrets, SecretsView
from upshot.automations.expressions.budget import BUDGET, MAX_WORK, TooCostly
from upshot.automations.rendering import CheapRenderer, ProcessRenderer, render_cheaply
from upshot.automations.template import compile_expression, compile_text, compile_tree
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import TemplateInvalid, Unavailable
from upshot.testing import Secrets

EVENT = custom_event(big=[{"v": index} for index in range(3000)], text="x" * 60_000)
LOOP = "{% for x in event.data.big %}{{ x.v }}{{ ',' if not loop.last }}{% endfor %}"
EXPECTED = ",".join(map(str, range(3000)))


@pytest.fixture
def renderer() -> Iterator[ProcessRenderer]:
    """Return a renderer, whose processes end with the test."""
    renderer = ProcessRenderer()
    yield renderer
    renderer.close()


def tree(**leaves: Any) -> Any:
    """Compile and prepare a tree whose leaves are in line 7 of `a.yaml`."""
    compiled = compile_tree(leaves, path="a.yaml", line_of=lambda leaf: 7)
    compiled.prepare()
    return compiled


def render(renderer: Any, compiled: Any, context: Any) -> Any:
    """Render on an event loop."""
    return asyncio.run(renderer.render(compiled, context))


@pytest.mark.parametrize(
    "compiled",
    [
        tree(x=LOOP),
        tree(x="{{ event.data.big|sort(attribute='v', reverse=true)|tojson }}"),
        tree(x="{{ 1 + 1 }}" * 300),
        compile_text(LOOP, path="a.yaml"),
        compile_text("{{ alias ~ 12345 }}", path="a.yaml"),
        compile_expression("event.data.big|map('v')|sum > 3", path="a.yaml"),
    ],
)
def test_what_is_not_cheap_is_not_rendered_on_the_loop(compiled):
    """A loop over much, a large template and a template that is not compiled yet take more than a millisecond."""
    with pytest.raises(TooCostly):
        render(CheapRenderer(), compiled, make_context(EVENT))

    assert not BUDGET.is_limited


def test_what_is_cheap_is_rendered_on_the_loop(monkeypatch):
    """Interpolation, fields and filters of bounded cost need no other process."""
    monkeypatch.setattr(rendering, "_RenderProcess", None)
    compiled = tree(a="{{ alias }}", b="{{ version.name|upper ~ '!' }}", c="{{= version.metadata }}")

    found = render(ProcessRenderer(), compiled, make_context(make_event()))

    assert found["b"] == "V3!"


def test_a_cheap_render_has_a_part_of_the_work():
    """The limit is at most a hundredth of what a template may use: about a millisecond."""
    assert rendering.IN_PROCESS_WORK <= MAX_WORK / 100


def test_an_expensive_template_is_rendered_in_a_process(renderer):
    """The result is the same, with the same types."""
    compiled = tree(text=LOOP, typed="{{= event.data.big|map('v')|list }}", fixed=[1.5, None])
    context = make_context(EVENT)

    found = render(renderer, compiled, context)

    assert found == {"text": EXPECTED, "typed": list(range(3000)), "fixed": [1.5, None]} == compiled.render(context)


def test_a_text_and_an_expression_are_rendered_in_a_process(renderer):
    """Body files and conditions are no exception."""
    context = make_context(EVENT)

    assert render(renderer, compile_text(LOOP, path="body.txt"), context) == EXPECTED
    assert render(renderer, compile_expression("event.data.big|map('v')|sort|last", path="a.yaml"), context) == 2999


def test_an_error_in_the_process_names_its_place(renderer):
    """The message is that of a render in the worker: file, line and reason."""
    compiled = tree(x="{% for x in event.data.big %}{{ x.v }}\n{{ x.missing if loop.last }}{% endfor %}")

    with pytest.raises(TemplateInvalid) as found:
        render(renderer, compiled, make_context(EVENT))

    assert str(found.value) == "a.yaml:8: with.x: 'x' has no 'missing'; if it can be missing, write `| default(…)`"


def test_a_secret_is_asked_for_one_by_one(renderer):
    """The process gets only the secrets that a template uses, and the worker knows which these are."""
    secrets = SecretsView(Secrets({"USED": "s3cret", "OTHER": "other"}))
    compiled = tree(x=LOOP + "{{ secrets.USED }}")

    found = render(renderer, compiled, make_context(EVENT, secrets=secrets))

    assert found["x"] == EXPECTED + "s3cret"
    assert secrets.used == {"USED": "s3cret"}
    with pytest.raises(TemplateInvalid, match="no secret 'NOPE'"):
        render(renderer, tree(x=LOOP + "{{ secrets.NOPE }}"), make_context(EVENT, secrets=secrets))


def test_a_secret_of_a_job_is_counted_once(renderer):
    """The lookups of a render that was given up do not count."""
    secrets = DeferredSecrets(Secrets({"A": "s3cret"}), SecretPlaceholders("0" * 32))

    render(renderer, tree(a="{{ secrets.A }}", x=LOOP), make_context(EVENT, secrets=secrets))

    assert secrets.lookups == {"A": 1}


def test_wandb_names_without_a_version_are_empty(renderer):
    """`artifact_metadata` has every key, also in the process."""
    assert render(renderer, tree(x=LOOP + "{{ artifact_metadata.any }}"), make_context(EVENT))["x"] == EXPECTED


SPIN = "from upshot.automations.expressions import filters; a = (1,)\nfor _ in range(60): a = (a, a)\n"
HANG = SPIN + "filters.FILTERS['upper'] = lambda value: hash(a)\n"
EAT = "from upshot.automations.expressions import filters\nfilters.FILTERS['upper'] = lambda value: bytearray(10**9)\n"
CRASH = (
    "from upshot.automations.expressions import filters\nimport os\nfilters.FILTERS['upper'] = lambda _: os.abort()\n"
)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (HANG, "this takes longer than 1 s to compute"),
        (EAT, "this needs too much memory"),
        (CRASH, f"ended with status -{int(signal.SIGABRT)}"),
    ],
)
def test_a_template_that_defeats_the_count_fails_alone(renderer, monkeypatch, broken, says):
    """If a filter hangs, eats memory or crashes, that render fails. The next one is not affected."""
    compiled = tree(x=LOOP + "{{ 'a'|upper }}")
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "_BOOT", rendering._BOOT.replace("sys.argv[1:];", f"sys.argv[1:]; exec({broken!r});"))
        with pytest.raises(TemplateInvalid, match=says) as found:
            render(renderer, compiled, make_context(EVENT))

    assert str(found.value).startswith("a.yaml:7: ")
    for process in renderer._take_idle():  # with the broken filter
        process.close()
    assert render(renderer, compiled, make_context(EVENT))["x"] == EXPECTED + "A"


def test_a_process_that_was_killed_in_between_is_replaced(renderer):
    """A process that ends while it has nothing to do costs nobody anything."""
    context = make_context(EVENT)
    render(renderer, tree(x=LOOP), context)
    renderer._idle[0]._process.kill()

    assert render(renderer, tree(x=LOOP), context)["x"] == EXPECTED


def test_a_process_that_cannot_be_started_is_no_fault_of_the_template(renderer, monkeypatch):
    """The machine lacks something. The attempt is made again later."""
    monkeypatch.setattr("sys.executable", "/does/not/exist")

    with pytest.raises(Unavailable, match="cannot be started"):
        render(renderer, tree(x=LOOP), make_context(EVENT))


def test_the_process_has_no_secrets_in_its_environment(renderer, monkeypatch):
    """A template that took the process over would find nothing."""
    monkeypatch.setenv("UPSHOT_SECRET_A", "s3cret")
    render(renderer, tree(x=LOOP), make_context(EVENT))
    assert b"s3cret" not in Path(f"/proc/{renderer._idle[0]._process.pid}/environ").read_bytes()


def test_the_limit_ends_with_the_render():
    """After a cheap render, the thread has its whole budget again."""
    with pytest.raises(TooCostly):
        render_cheaply(tree(x=LOOP), make_context(EVENT))

    assert tree(x=LOOP).render(make_context(EVENT))["x"] == EXPECTED
