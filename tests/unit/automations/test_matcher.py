"""Which automations answer an event, and the reason of every miss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.automations.factories import answering, custom_event, make_event
from upshot.automations.matcher import Matcher, MatchResult
from upshot.domain.event import MAX_CHAIN_DEPTH, Cause, EventKind


def matches(on, event, **keys):
    return [match.automation.name for match in Matcher([answering(on, **keys)]).match(event)] == ["a"]


def miss(on, event, **keys):
    (explanation,) = Matcher([answering(on, **keys)]).explain(event)
    assert not explanation.answers
    return explanation.reason


PROMOTED: Any = make_event("alias-added", alias="production", actor="ann")  # its data is a dict, for tests to change


@pytest.mark.parametrize(
    ("on", "answers"),
    [
        pytest.param("alias-added", True, id="no filter"),
        pytest.param("version-linked", False, id="another kind"),
        pytest.param({"alias-added": {"alias": "production"}}, True, id="exact"),
        pytest.param({"alias-added": {"alias": "Production"}}, False, id="case counts"),
        pytest.param({"alias-added": {"alias": "prod"}}, False, id="a beginning is not the whole"),
        pytest.param({"alias-added": {"alias": "prod*"}}, True, id="beginning"),
        pytest.param({"alias-added": {"alias": "*tion"}}, True, id="end"),
        pytest.param({"alias-added": {"alias": "*duct*"}}, True, id="middle"),
        pytest.param({"alias-added": {"alias": "p?oduction"}}, True, id="one character"),
        pytest.param({"alias-added": {"alias": "[op]roduction"}}, True, id="a set of characters"),
        pytest.param({"alias-added": {"alias": "[!p]*"}}, False, id="all but a set"),
        pytest.param({"alias-added": {"alias": "*"}}, True, id="anything"),
        pytest.param({"alias-added": {"alias": ["staging", "production"]}}, True, id="one of a list"),
        pytest.param({"alias-added": {"alias": ["staging", "prod-*"]}}, False, id="none of a list"),
        pytest.param({"alias-added": {"alias": {"not": "staging"}}}, True, id="not another"),
        pytest.param({"alias-added": {"alias": {"not": ["staging", "prod*"]}}}, False, id="not this"),
        pytest.param({"alias-added": {"alias": ["prod*", {"not": "production"}]}}, False, id="some, but not this"),
        pytest.param({"alias-added": {"registry": "model", "collection": "fr*", "actor": "ann"}}, True, id="several"),
        pytest.param({"alias-added": {"registry": "model", "collection": "churn"}}, False, id="one of several misses"),
        pytest.param(
            {"alias-added": {"artifact-type": "model", "project": "fraud", "artifact": "xgb"}}, True, id="source"
        ),
        pytest.param(["version-linked", "alias-added"], True, id="one of two triggers"),
    ],
)
def test_filters(on, answers):
    """All filters of a trigger must hold; a trigger is enough."""
    assert matches(on, PROMOTED) is answers


def test_custom_events_are_found_by_name():
    """And by who emitted them."""
    event = custom_event("drift-detected", alias="production", registry={"name": "model"})

    assert matches({"custom": {"name": "drift-*", "actor": "monitor"}}, event)
    assert not matches({"custom": {"name": "other"}}, event)
    assert not matches({"alias-added": {"alias": "production"}}, event)


def test_tags_of_collections_and_of_versions_differ():
    """`on` tells what was tagged."""
    event = make_event("tag-added", tag="gold", on="collection")

    assert matches({"tag-added": {"tag": "gold", "on": "collection"}}, event)
    assert not matches({"tag-added": {"tag": "gold", "on": "version"}}, event)


def test_a_filter_on_what_the_event_does_not_have_misses():
    """What happens in a project has no registry, so no filter of it matches, not even `*`."""
    event = replace(PROMOTED, data=PROMOTED.data | {"registry": None})

    assert not matches({"alias-added": {"registry": "*"}}, event)
    assert not matches({"alias-added": {"registry": {"not": "model"}}}, event)
    assert matches("alias-added", event)


@pytest.mark.parametrize(
    ("filters", "answers"),
    [
        pytest.param({"alias": "latest"}, True, id="the exact name"),
        pytest.param({"alias": ["*", "latest"]}, True, id="the exact name among others"),
        pytest.param({"alias": "*"}, False, id="a glob"),
        pytest.param({"alias": "late*"}, False, id="a narrow glob"),
        pytest.param({"alias": {"not": "production"}}, False, id="not another"),
        pytest.param({"collection": "fraud"}, False, id="no alias filter"),
        pytest.param(None, False, id="no filter"),
    ],
)
def test_an_automatic_move_of_latest_is_answered_only_by_name(filters, answers):
    """Otherwise every link would fire twice; a `latest` that a person moves is like any other alias."""
    for kind in ("alias-added", "alias-removed"):
        assert matches({kind: filters}, make_event(kind, alias="latest", automatic=True)) is answers
    if filters is None or filters.get("alias") != {"not": "production"}:
        assert matches({"alias-added": filters}, make_event(alias="latest", automatic=False))


def test_an_event_fires_an_automation_once():
    """Even if several triggers match."""
    found = answering([{"alias-added": {"alias": "production"}}, {"alias-added": {"alias": "prod*"}}, "alias-added"])

    assert len(Matcher([found]).match(PROMOTED)) == 1


def test_disabled_automations_do_not_answer():
    """And say so."""
    assert not matches("alias-added", PROMOTED, enabled=False)
    assert miss("alias-added", PROMOTED, enabled=False) == "disabled by `enabled: false`"


def test_matches_come_in_the_order_of_the_files():
    """Whatever the index does."""
    found = [
        answering({"alias-added": {"alias": glob}}, name=f"a{place}")
        for place, glob in enumerate(["*tion", "production", "*", "prod*", "p*n", "production"])
    ]

    assert [match.automation.name for match in Matcher(found).match(PROMOTED)] == [f"a{place}" for place in range(6)]


# --- if -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "answers"),
    [
        ("version.metadata.accuracy >= vars.bar", True),
        ("version.metadata.accuracy < vars.bar", False),
        ("collection.name == 'fraud' and alias in ['production', 'staging']", True),
        ("previous", False),
        ("not previous", True),
        ("previous.name == 'v1'", False),
        ("version.metadata.missing | default(false)", False),
        ("event_type == 'ADD_ARTIFACT_ALIAS' and artifact_metadata.format == 'onnx'", True),
        ("automation.name == 'a' and actor.name == 'ann'", True),
        (True, True),
        (False, False),
    ],
)
def test_if_decides(condition, answers):
    """An expression over the event and `vars`."""
    assert matches("alias-added", PROMOTED, vars={"bar": 0.9}, **{"if": condition}) is answers


def test_an_if_that_fails_is_visible():
    """It is neither a match nor a miss: what it stumbled over is kept."""
    found = answering("alias-added", **{"if": "version.metadata.acuracy > 0.9"})

    (match,) = Matcher([found]).match(PROMOTED)
    (explanation,) = Matcher([found]).explain(PROMOTED)

    assert match.verdict is MatchResult.ERROR
    assert "'version.metadata' has no 'acuracy'; did you mean 'accuracy'?" in str(match.reason)
    assert (explanation.answers, explanation.reason) == (False, match.reason)


def test_an_if_is_not_asked_when_the_filters_miss():
    """So it may rely on what its kind of event has."""
    assert not matches({"alias-added": {"alias": "x"}}, PROMOTED, **{"if": "version.metadata.acuracy > 0.9"})


# --- loops ----------------------------------------------------------------------------------------


def cause(automation="a", version="model/fraud:v3"):
    return Cause(automation, "exe_1", "evt_0", version)


def test_an_automation_does_not_answer_itself():
    """Not on the same version, however many others lie between; the stop is visible."""
    for chain in ((cause(),), (cause(), cause("other", "model/fraud:v9"))):
        (match,) = Matcher([answering("alias-added")]).match(make_event(chain=chain))
        assert match.verdict is MatchResult.LOOP
        assert "caused by this automation itself, in execution exe_1" in str(match.reason)


def test_an_automation_answers_what_it_caused_on_another_version():
    """That is no loop."""
    assert matches("alias-added", make_event(chain=(cause(version="model/fraud:v2"),)))
    assert Matcher([answering("alias-added")]).match(make_event(chain=(cause("b"),)))[0].verdict is MatchResult.MATCHED


def test_a_custom_event_does_not_answer_itself():
    """An event about no version is about the same as another about no version."""
    (match,) = Matcher([answering("custom")]).match(custom_event(chain=(cause(version=None),)))

    assert match.verdict is MatchResult.LOOP


def test_a_chain_ends():
    """At its limit, visibly, whoever is in it."""
    chain = tuple(cause(f"b{place}", f"model/fraud:v{place}") for place in range(MAX_CHAIN_DEPTH))
    matcher = Matcher([answering("alias-added")])

    assert matcher.match(make_event(number=99, chain=chain[1:]))[0].verdict is MatchResult.MATCHED
    (match,) = matcher.match(make_event(number=99, chain=chain))
    assert match.verdict is MatchResult.LOOP
    assert match.reason == (
        "8 executions led to this event, and a chain stops there: b0 → b1 → b2 → b3 → b4 → b5 → b6 → b7"
    )


# --- explanations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "keys", "reason"),
    [
        ("version-linked", {}, "on version-linked, this is alias-added"),
        (["version-linked", "custom"], {}, "on version-linked, this is alias-added; on custom, this is alias-added"),
        ({"alias-added": {"alias": "staging"}}, {}, "alias is 'production', wanted 'staging'"),
        ({"alias-added": {"alias": ["staging", "s-*"]}}, {}, "alias is 'production', wanted 'staging' or 's-*'"),
        ({"alias-added": {"alias": {"not": "production"}}}, {}, "alias is 'production', wanted not 'production'"),
        (
            {"alias-added": {"alias": ["p*", {"not": ["production"]}]}},
            {},
            "alias is 'production', wanted 'p*', not 'production'",
        ),
        (["custom", {"alias-added": {"alias": "x"}}], {}, "alias is 'production', wanted 'x'"),
        ("alias-added", {"if": "alias == 'staging'"}, "if: alias == 'staging' is false"),
    ],
)
def test_a_miss_has_a_reason(on, keys, reason):
    """In plain words: which filter, what it wanted, what was there."""
    assert miss(on, PROMOTED, **keys) == reason


def test_a_miss_of_what_is_not_there():
    """A field that the event does not have."""
    event = replace(PROMOTED, data=PROMOTED.data | {"registry": None})

    assert miss({"alias-added": {"registry": "model"}}, event) == "registry has none, wanted 'model'"


def test_a_miss_of_an_automatic_move():
    """The rule is said, for nobody would guess it."""
    event = make_event(alias="latest", automatic=True)

    for on in ("alias-added", {"alias-added": {"alias": "*"}}):
        assert miss(on, event) == "latest moved by itself, which only the filter `alias: latest` answers"
    assert miss({"alias-added": {"alias": "x"}}, event) == "alias is 'latest', wanted 'x'"


# --- the index ------------------------------------------------------------------------------------

WORDS = st.sampled_from(["a", "b", "ab", "ba", "aab", "latest", "[", "]", "a]", ""])
GLOBS = st.sampled_from(
    [
        *("a", "b", "ab", "a*", "*a", "*b", "*", "?", "a?", "?b", "*a*", "[ab]", "[!a]", "a[ab]", "[ab]b", "[", "[]]"),
        *("latest", "late*", "*]", "[a]]", "*[ab]", "**", "a**b"),
    ]
)
PATTERNS = st.one_of(
    GLOBS,
    st.lists(GLOBS, min_size=1, max_size=3),
    st.builds(lambda globs: {"not": globs}, st.lists(GLOBS, min_size=1, max_size=2)),
    st.builds(lambda one, other: [one, {"not": other}], GLOBS, GLOBS),
)
TRIGGERS = st.dictionaries(
    st.sampled_from(["alias-added", "version-linked"]),
    st.dictionaries(st.sampled_from(["registry", "collection", "actor"]), PATTERNS, max_size=3),
    min_size=1,
)


EVENTS = st.builds(make_event, registry=WORDS, collection=WORDS, actor=WORDS, alias=WORDS, automatic=st.booleans())


@given(
    ons=st.lists(st.lists(TRIGGERS, min_size=1, max_size=2), max_size=8),
    aliases=st.lists(PATTERNS | st.none(), min_size=8, max_size=8),
    event=EVENTS,
)
@example(
    ons=[[{"alias-added": {"collection": "[a]]"}}]], aliases=[None] * 8, event=make_event(collection="a]", alias="a")
)
def test_the_index_finds_what_a_scan_finds(ons, aliases, event):
    """For any automations and any event, the index gives exactly what looking at each of them gives."""
    for on, pattern in zip(ons, aliases, strict=False):
        if pattern is not None and "alias-added" in on[0]:
            on[0]["alias-added"] = on[0]["alias-added"] | {"alias": pattern}
    matcher = Matcher([answering(on, name=f"a{place}") for place, on in enumerate(ons)])

    scanned = [explanation.automation.name for explanation in matcher.explain(event) if explanation.answers]

    assert [match.automation.name for match in matcher.match(event)] == scanned


def test_ten_thousand_automations_cost_no_more_than_the_few_that_could_match(monkeypatch):
    """Whatever field tells them apart, only those that share its literal are looked at."""
    from upshot.automations.matcher import _Entry

    looked_at = []
    accepts = _Entry.accepts

    def look(entry, event, *, automatic):
        looked_at.append(entry)
        return accepts(entry, event, automatic=automatic)

    monkeypatch.setattr(_Entry, "accepts", look)
    several = [
        answering({"alias-added": {"registry": "model", "collection": f"c{n}", "alias": "production"}}, name=f"a{n}")
        for n in range(300)
    ]
    several += [answering({"alias-added": {"alias": f"*-{n}", "registry": "model"}}, name=f"b{n}") for n in range(300)]
    several += [answering({"alias-added": {"alias": [f"x{n}-*", f"y{n}"]}}, name=f"c{n}") for n in range(300)]
    matcher = Matcher(several)

    assert [m.automation.name for m in matcher.match(make_event(collection="c7"))] == ["a7"]
    assert [m.automation.name for m in matcher.match(make_event(alias="y-77"))] == ["b77"]
    assert [m.automation.name for m in matcher.match(make_event(alias="x8-z"))] == ["c8"]
    assert len(looked_at) == 3


def test_events_of_jobs_are_told_apart_by_job_queue_and_version():
    """Whoever watches over jobs says which."""
    watcher = answering(
        {"job-failed": {"job": "eval*", "automation": "promote", "queue": "gpu-*", "collection": "fraud"}}
    )
    told: dict[str, Any] = {"job": {"name": "evaluate"}, "automation": "promote", "queue": "gpu-a100"}
    others: list[dict[str, Any]] = [
        {"job": {"name": "train"}},
        {"automation": "demote"},
        {"queue": "cpu"},
        {"collection": "churn"},
    ]

    assert len(Matcher([watcher]).match(make_event("job-failed", **told))) == 1
    for other in others:
        assert not Matcher([watcher]).match(make_event("job-failed", **(told | other)))
    assert not Matcher([watcher]).match(make_event("job-started", **told))


def test_every_kind_can_be_asked_for():
    """No kind of event lacks its filters."""
    from upshot.automations.triggers import FIELDS, FIELDS_OF_KIND

    assert set(FIELDS_OF_KIND) == set(EventKind)
    assert {field for fields in FIELDS_OF_KIND.values() for field in fields} == set(FIELDS)
