"""Which automations answer an event, and why the others do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.automations.factories import automation_on, custom_event, make_event
from upshot.automations.matcher import Matcher, MatchResult
from upshot.domain.event import MAX_CHAIN_DEPTH, Cause, EventKind
from upshot.ids import EventId, ExecutionId


def matches(on, event, **keys):
    return [match.automation.name for match in Matcher([automation_on(on, **keys)]).match(event)] == ["a"]


def miss(on, event, **keys):
    (explanation,) = Matcher([automation_on(on, **keys)]).explain(event)
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
        pytest.param({"alias-added": {"alias": "prod"}}, False, id="a prefix is not the whole value"),
        pytest.param({"alias-added": {"alias": "prod*"}}, True, id="prefix"),
        pytest.param({"alias-added": {"alias": "*tion"}}, True, id="suffix"),
        pytest.param({"alias-added": {"alias": "*duct*"}}, True, id="middle"),
        pytest.param({"alias-added": {"alias": "p?oduction"}}, True, id="one character"),
        pytest.param({"alias-added": {"alias": "[op]roduction"}}, True, id="a set of characters"),
        pytest.param({"alias-added": {"alias": "[!p]*"}}, False, id="all but a set"),
        pytest.param({"alias-added": {"alias": "*"}}, True, id="anything"),
        pytest.param({"alias-added": {"alias": ["staging", "production"]}}, True, id="one of a list"),
        pytest.param({"alias-added": {"alias": ["staging", "prod-*"]}}, False, id="none of a list"),
        pytest.param({"alias-added": {"alias": {"not": "staging"}}}, True, id="excludes another"),
        pytest.param({"alias-added": {"alias": {"not": ["staging", "prod*"]}}}, False, id="excludes this"),
        pytest.param(
            {"alias-added": {"alias": ["prod*", {"not": "production"}]}}, False, id="matches, but is excluded"
        ),
        pytest.param(
            {"alias-added": {"registry": "model", "collection": "fr*", "actor": "ann"}}, True, id="several filters"
        ),
        pytest.param(
            {"alias-added": {"registry": "model", "collection": "churn"}},
            False,
            id="one of several filters does not match",
        ),
        pytest.param(
            {"alias-added": {"artifact-type": "model", "project": "fraud", "artifact": "xgb"}},
            True,
            id="filters on the artifact",
        ),
        pytest.param(["version-linked", "alias-added"], True, id="one of two triggers"),
    ],
)
def test_filters(on, answers):
    """All filters of a trigger must match. One matching trigger is enough."""
    assert matches(on, PROMOTED) is answers


def test_custom_events_match_by_name_and_actor():
    """A trigger on custom events filters by the name of the event and by who emitted it."""
    event = custom_event("drift-detected", alias="production", registry={"name": "model"})

    assert matches({"custom": {"name": "drift-*", "actor": "monitor"}}, event)
    assert not matches({"custom": {"name": "other"}}, event)
    assert not matches({"alias-added": {"alias": "production"}}, event)


@pytest.mark.parametrize("name", ["bert[base]", "[base]", "net[0-9]x", "a[b", "[!a]", "x[]]"])
def test_a_name_with_brackets_matches_itself(name):
    """A literal match wins over a glob, in a filter and in an exclusion. Globs still match what they mean."""
    event = make_event(collection=name)

    assert matches({"alias-added": {"collection": name}}, event)
    assert matches({"alias-added": {"collection": ["other", name]}}, event)
    assert not matches({"alias-added": {"collection": {"not": name}}}, event)
    assert matches({"alias-added": {"collection": "bert[base]"}}, make_event(collection="berta"))
    assert not matches({"alias-added": {"collection": "bert[base]"}}, make_event(collection="bert"))
    assert matches("alias-added", event, **{"if": f"collection.name is matching('{name}')"})


@pytest.mark.parametrize(
    "pattern", ["caf\u00e9", "cafe\u0301", "caf\u00e9*", "*f\u00e9", "cafe\u0301*", "*fe\u0301", "?af\u00e9"]
)
@pytest.mark.parametrize("name", ["caf\u00e9", "cafe\u0301"])
def test_both_unicode_forms_of_a_name_match(pattern, name):
    """What macOS decomposed matches what a keyboard composed, in names and globs, and in conditions."""
    event = make_event(alias=name)

    assert matches({"alias-added": {"alias": pattern}}, event)
    assert not matches({"alias-added": {"alias": {"not": pattern}}}, event)
    assert matches("alias-added", event, **{"if": f"alias is matching('{pattern}')"})


def test_tags_of_collections_and_versions_differ():
    """The filter `on` distinguishes a tagged version from a tagged collection."""
    event = make_event("tag-added", tag="gold", on="collection")

    assert matches({"tag-added": {"tag": "gold", "on": "collection"}}, event)
    assert not matches({"tag-added": {"tag": "gold", "on": "version"}}, event)


@pytest.mark.parametrize(
    ("mention", "mentions", "answers"),
    [
        ("ada", ["bob", "ada"], True),
        ("ad*", ["bob", "ada"], True),
        ("ada", ["bob"], False),
        ("ada", [], False),
        (["ada", "carol"], ["carol"], True),
        ({"not": "bob"}, ["ada", "bob"], False),
        ({"not": "bob"}, ["ada"], True),
        ("Zo\u00eb", ["Zoe\u0308"], True),
    ],
)
def test_one_of_several_mentions_must_match(mention, mentions, answers):
    """A comment can mention several names: one must be wanted, and none excluded."""
    event = make_event("comment-added", mentions=mentions, on="version")
    assert matches({"comment-added": {"mention": mention}}, event) == answers
    assert matches({"comment-added": {"mention": mention, "on": "run"}}, event) is False
    if not answers:
        assert "mention is " in miss({"comment-added": {"mention": mention}}, event)


def test_a_filter_does_not_match_a_missing_value():
    """An event in a project has no registry, so no filter on the registry matches, not even `*`."""
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
        pytest.param({"alias": {"not": "production"}}, False, id="excludes another"),
        pytest.param({"collection": "fraud"}, False, id="no alias filter"),
        pytest.param(None, False, id="no filter"),
    ],
)
def test_only_an_exact_name_answers_an_automatic_move_of_latest(filters, answers):
    """Otherwise every link would trigger twice. A `latest` that a person moves is like any other alias."""
    for kind in ("alias-added", "alias-removed"):
        assert matches({kind: filters}, make_event(kind, alias="latest", automatic=True)) is answers
    if filters is None or filters.get("alias") != {"not": "production"}:
        assert matches({"alias-added": filters}, make_event(alias="latest", automatic=False))


def test_an_event_triggers_an_automation_once():
    """An automation answers an event once, even if several of its triggers match."""
    answering = automation_on(
        [{"alias-added": {"alias": "production"}}, {"alias-added": {"alias": "prod*"}}, "alias-added"]
    )

    assert len(Matcher([answering]).match(PROMOTED)) == 1


def test_disabled_automations_do_not_answer():
    """A disabled automation does not answer, and the explanation says that it is disabled."""
    assert not matches("alias-added", PROMOTED, enabled=False)
    assert miss("alias-added", PROMOTED, enabled=False) == "disabled by `enabled: false`"


def test_matches_have_the_order_of_the_automations():
    """Matches have the order of the automations, although the index returns them in another order."""
    automations = [
        automation_on({"alias-added": {"alias": glob}}, name=f"a{index}")
        for index, glob in enumerate(["*tion", "production", "*", "prod*", "p*n", "production"])
    ]

    names = [match.automation.name for match in Matcher(automations).match(PROMOTED)]

    assert names == [f"a{index}" for index in range(6)]


# --- if -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "answers"),
    [
        ("version.metadata.accuracy >= vars.bar", True),
        ("version.metadata.accuracy < vars.bar", False),
        ("collection.name == 'fraud' and alias in ['production', 'staging']", True),
        ("previous is not none", False),
        ("previous is none", True),
        ("previous.name == 'v1'", False),
        ("version.metadata.missing | default(false)", False),
        ("event_type == 'ADD_ARTIFACT_ALIAS' and artifact_metadata.format == 'onnx'", True),
        ("automation.name == 'a' and actor.name == 'ann'", True),
        (True, True),
        (False, False),
    ],
)
def test_if_decides(condition, answers):
    """`if` is an expression over the event and `vars`. The automation answers only if it is true."""
    assert matches("alias-added", PROMOTED, vars={"bar": 0.9}, **{"if": condition}) is answers


def test_a_failing_if_is_reported():
    """An `if` that cannot be evaluated is a match with an error, which contains the reason."""
    failing = automation_on("alias-added", **{"if": "version.metadata.acuracy > 0.9"})

    (match,) = Matcher([failing]).match(PROMOTED)
    (explanation,) = Matcher([failing]).explain(PROMOTED)

    assert match.result is MatchResult.ERROR
    assert "'version.metadata' has no 'acuracy'; did you mean 'accuracy'?" in str(match.reason)
    assert (explanation.answers, explanation.reason) == (False, match.reason)


def test_if_is_not_evaluated_unless_the_filters_match():
    """An `if` can rely on the fields that its kind of event has."""
    assert not matches({"alias-added": {"alias": "x"}}, PROMOTED, **{"if": "version.metadata.acuracy > 0.9"})


# --- loops ----------------------------------------------------------------------------------------


def cause(automation="a", version="model/fraud:v3"):
    return Cause(automation, ExecutionId("exe_1"), EventId("evt_0"), version)


def test_an_automation_does_not_answer_itself():
    """An automation does not answer an event that it caused on the same version, and a skipped match says so."""
    for chain in ((cause(),), (cause(), cause("other", "model/fraud:v9"))):
        (match,) = Matcher([automation_on("alias-added")]).match(make_event(chain=chain))
        assert match.result is MatchResult.LOOP
        assert "this automation itself caused the event, in execution exe_1" in str(match.reason)


def test_an_automation_answers_what_it_caused_on_another_version():
    """An event about another version than the one that caused it is not a loop."""
    assert matches("alias-added", make_event(chain=(cause(version="model/fraud:v2"),)))
    assert (
        Matcher([automation_on("alias-added")]).match(make_event(chain=(cause("b"),)))[0].result is MatchResult.MATCHED
    )


def test_a_custom_event_does_not_answer_itself():
    """An automation on custom events does not answer a custom event that it caused."""
    (match,) = Matcher([automation_on("custom")]).match(custom_event(chain=(cause(version=None),)))

    assert match.result is MatchResult.LOOP


def test_a_chain_ends_at_its_limit():
    """A chain ends after 8 executions, and a skipped match names them."""
    chain = tuple(cause(f"b{index}", f"model/fraud:v{index}") for index in range(MAX_CHAIN_DEPTH))
    matcher = Matcher([automation_on("alias-added")])

    assert matcher.match(make_event(number=99, chain=chain[1:]))[0].result is MatchResult.MATCHED
    (match,) = matcher.match(make_event(number=99, chain=chain))
    assert match.result is MatchResult.LOOP
    assert match.reason == (
        "a chain of 8 executions led to this event, which is the maximum: b0 → b1 → b2 → b3 → b4 → b5 → b6 → b7"
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
    """The reason names the filter, what it accepts, and the value of the event."""
    assert miss(on, PROMOTED, **keys) == reason


def test_a_miss_on_a_missing_value_has_a_reason():
    """If the event has no value for a filter, the reason says so."""
    event = replace(PROMOTED, data=PROMOTED.data | {"registry": None})

    assert miss({"alias-added": {"registry": "model"}}, event) == "the event has no registry, wanted 'model'"


def test_a_miss_on_an_automatic_move_has_a_reason():
    """The reason states the rule for automatic moves of `latest`, which users may not know."""
    event = make_event(alias="latest", automatic=True)

    for on in ("alias-added", {"alias-added": {"alias": "*"}}):
        assert miss(on, event) == "latest moved by itself, which only the filter `alias: latest` answers"
    assert miss({"alias-added": {"alias": "x"}}, event) == "alias is 'latest', wanted 'x'"


# --- the index ------------------------------------------------------------------------------------

WORDS = st.sampled_from(["a", "b", "ab", "ba", "aab", "latest", "[", "]", "a]", ""])
GLOBS = st.one_of(
    st.sampled_from(["a", "b", "ab", "latest"]),
    st.sampled_from(["a*", "*a", "*b", "*", "?", "a?", "?b", "*a*", "late*", "*]", "**", "a**b"]),
    st.sampled_from(["[ab]", "[!a]", "a[ab]", "[ab]b", "[", "[]]", "[a]]", "*[ab]"]),
)
PATTERNS = st.one_of(
    GLOBS,
    st.lists(GLOBS, min_size=1, max_size=3),
    st.builds(lambda globs: {"not": globs}, st.lists(GLOBS, min_size=1, max_size=2)),
    st.builds(lambda accepted, excluded: [accepted, {"not": excluded}], GLOBS, GLOBS),
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
    """For any automations and any event, the index finds exactly those that checking each of them finds."""
    for on, pattern in zip(ons, aliases, strict=False):
        if pattern is not None and "alias-added" in on[0]:
            on[0]["alias-added"] = on[0]["alias-added"] | {"alias": pattern}
    matcher = Matcher([automation_on(on, name=f"a{index}") for index, on in enumerate(ons)])

    scanned = [explanation.automation.name for explanation in matcher.explain(event) if explanation.answers]

    assert [match.automation.name for match in matcher.match(event)] == scanned


def test_only_automations_that_could_match_are_checked(monkeypatch):
    """Whichever filter distinguishes the automations, only those whose literal part matches are checked."""
    from upshot.automations.matcher import _Entry

    checked = []
    accepts = _Entry.accepts

    def record(entry, event, *, automatic):
        checked.append(entry)
        return accepts(entry, event, automatic=automatic)

    monkeypatch.setattr(_Entry, "accepts", record)
    automations = [
        automation_on(
            {"alias-added": {"registry": "model", "collection": f"c{n}", "alias": "production"}}, name=f"a{n}"
        )
        for n in range(300)
    ]
    automations += [
        automation_on({"alias-added": {"alias": f"*-{n}", "registry": "model"}}, name=f"b{n}") for n in range(300)
    ]
    automations += [automation_on({"alias-added": {"alias": [f"x{n}-*", f"y{n}"]}}, name=f"c{n}") for n in range(300)]
    matcher = Matcher(automations)

    assert [m.automation.name for m in matcher.match(make_event(collection="c7"))] == ["a7"]
    assert [m.automation.name for m in matcher.match(make_event(alias="y-77"))] == ["b77"]
    assert [m.automation.name for m in matcher.match(make_event(alias="x8-z"))] == ["c8"]
    assert len(checked) == 3


def test_events_of_jobs_match_by_job_queue_and_version():
    """A trigger on events of jobs filters by job, automation, queue and version."""
    watcher = automation_on(
        {"job-failed": {"job": "eval*", "automation": "promote", "queue": "gpu-*", "collection": "fraud"}}
    )
    data: dict[str, Any] = {"job": {"name": "evaluate"}, "automation": "promote", "queue": "gpu-a100"}
    others: list[dict[str, Any]] = [
        {"job": {"name": "train"}},
        {"automation": "demote"},
        {"queue": "cpu"},
        {"collection": "churn"},
    ]

    assert len(Matcher([watcher]).match(make_event("job-failed", **data))) == 1
    for other in others:
        assert not Matcher([watcher]).match(make_event("job-failed", **(data | other)))
    assert not Matcher([watcher]).match(make_event("job-started", **data))


def test_every_kind_has_filters():
    """Every kind of event has filters, and every filter belongs to a kind."""
    from upshot.automations.triggers import FILTER_VALUES, FILTERS_BY_KIND

    assert set(FILTERS_BY_KIND) == set(EventKind)
    assert {name for names in FILTERS_BY_KIND.values() for name in names} == set(FILTER_VALUES)
