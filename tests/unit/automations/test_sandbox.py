"""What templates cannot do: reach other objects than their data, or exhaust time and memory."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from tests.unit.automations.factories import custom_event, make_context
from upshot.automations.expressions import values
from upshot.automations.expressions.budget import BUDGET, MAX_OUTPUT_BYTES, MAX_WORK
from upshot.automations.template import compile_text, compile_tree
from upshot.errors import TemplateInvalid

EVENT = custom_event(
    big=[{"name": f"n{index}", "v": index} for index in range(2000)],
    ints=list(range(30_000)),
    text="x" * 60_000,
    nest=[[list(range(3000))]],
    format="{0.__class__.__mro__}",
)

ESCAPES = r"""
{{ ''.__class__ }}
{{ ''.__class__.__mro__[1].__subclasses__() }}
{{ ''['__class__'] }}
{{ event['__cla' ~ 'ss__'] }}
{{ event.__class__.__base__ }}
{{ true.__class__ }}
{{ (1).real }}
{{ self }}
{{ self.__init__.__globals__ }}
{{ self._TemplateReference__context }}
{{ cycler.__init__.__globals__.os.popen('id').read() }}
{{ joiner.__init__.__globals__ }}
{{ lipsum.__globals__ }}
{{ namespace.__init__ }}
{{ namespace() }}
{{ dict(a=1) }}
{{ range(9) }}
{{ get_flashed_messages.__globals__ }}
{{ url_for.__globals__ }}
{{ _('x') }}
{{ environment }}
{{ context }}
{{ resolve('event') }}
{{ missing }}
{{ l_0_event }}
{{ t_1 }}
{{ super() }}
{{ caller() }}
{{ varargs }}
{{ ''|attr('__class__') }}
{{ ('a'|attr('format'))('x') }}
{{ [1]|map('attr','__class__')|list }}
{{ [1]|map('__class__')|list }}
{{ event.data.big|map(attribute='__class__') }}
{{ event.data.big|map('name.__class__') }}
{{ event.data.big|sort(attribute='__class__') }}
{{ event.data.big|selectattr('__class__') }}
{{ [1]|groupby('__class__') }}
{{ event|xmlattr }}
{{ event|pprint }}
{{ "%s"|format(event) }}
{{ "{0.__class__}".format(1) }}
{{ event.data.format.format(1) }}
{{ "{a.__class__}".format_map({"a": 1}) }}
{{ 'a'.join(['b']) }}
{{ [].append(1) }}
{{ {}.items() }}
{{ event.data.update({}) }}
{{ [1]|first(*[1]) }}
{{ 7|default(**{'a':1}) }}
{{ [] | first(**{'__class__': 1}) }}
{% set event.data = 1 %}
{% set ns = namespace(a=1) %}
{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}
{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}
{% for x in [1] %}{{ loop }}{% endfor %}
{% for x in [1] %}{{ loop._iterable }}{% endfor %}
{% for x in [1] %}{{ loop['_iterator'] }}{% endfor %}
{% for x in [1] %}{{ loop.cycle('a') }}{% endfor %}
{% for x in [1] %}{{ loop.changed }}{% endfor %}
{% for x in [1] %}{{ loop.nextitem }}{% endfor %}
{% for x in [1] %}{{ loop|tojson }}{% endfor %}
{% for _x in [1] %}{{ _x }}{% endfor %}
{% set _result = 1 %}{{ _result }}
{% include 'x' %}
{% include ['a'] ignore missing %}
{% import 'x' as y %}
{% from 'x' import y %}
{% extends 'x' %}
{% block x %}{% endblock %}
{% macro f() %}{{ f() }}{% endmacro %}
{% call f() %}{% endcall %}
{% filter upper %}x{% endfilter %}
{% set x %}abc{% endset %}
{% with a=1 %}{{ a }}{% endwith %}
{% autoescape true %}x{% endautoescape %}
{% do [].append(1) %}
{% debug %}
{% trans %}x{% endtrans %}
{{ secrets }}
{{ secrets|tojson }}
{{ secrets|list }}
{{ secrets|items }}
{{ secrets|string }}
{{ secrets|length }}
{{ secrets|first }}
{{ secrets|default('x') }}
{{ secrets ~ '' }}
{{ [secrets]|tojson }}
{{ {'a': secrets}|tojson }}
{{= secrets }}
{{= [secrets] }}
{% for s in secrets %}{{ s }}{% endfor %}
{{ 'TOKEN' in secrets }}
{{ 'TOKEN' is in(secrets) }}
{{ 'x' == secrets }}
{{ secrets < 'x' }}
{{ secrets[1:2] }}
{{ secrets[0] }}
{{ secrets._source }}
{{ secrets['_source'] }}
{{ secrets['__class__'] }}
{{ secrets.used }}
{{ secrets.look_up }}
""".strip().splitlines()


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_reaches_nothing_but_its_data(template):
    """Known escapes from Jinja's sandbox, and ways to list secrets, raise TemplateInvalid."""
    with pytest.raises(TemplateInvalid) as caught:
        compile_tree({"x": template}, path="a.yaml", line_of=lambda leaf: 1).render(make_context(EVENT))

    assert "hunter2" not in str(caught.value)


#: A list, a mapping and a list from a tuple that hold 2 to the power of 45 parts, in little memory.
SHARED_LIST = "{% set a = [1, 2] %}" + "{% set a = [a, a] %}" * 45
SHARED_MAPPING = "{% set a = {'x': 1} %}" + "{% set a = {'x': a, 'y': a} %}" * 45
SHARED_TUPLE = "{% set a = (1, 2) %}" + "{% set a = (a, a) %}" * 45
SAME_AGAIN = SHARED_LIST.replace("set a", "set b").replace("[a, a]", "[b, b]")
NEEDLE = "{% set n = event.data.text[:7000] ~ 'b' ~ event.data.text[:7000] %}"

EXHAUSTING = {
    "hash of shared tuples": SHARED_TUPLE + "{{ {a: 1}|length }}",
    "shared tuples in a mapping": SHARED_TUPLE + "{{ a in {'x': 1} }}",
    "shared tuples in a list": SHARED_TUPLE + "{{ a in [1] }}",
    "is in of shared tuples": SHARED_TUPLE + "{{ a is in([1]) }}",
    "unique of shared tuples": SHARED_TUPLE + "{{ [a, a]|unique|length }}",
    "== of shared lists": SHARED_LIST + SAME_AGAIN + "{{ a == b }}",
    "< of shared lists": SHARED_LIST + SAME_AGAIN + "{{ a < b }}",
    "tojson of shared lists": SHARED_LIST + "{{ a|tojson }}",
    "tojson of shared mappings": SHARED_MAPPING + "{{ a|tojson(true) }}",
    "shared lists that keep their type": SHARED_LIST + "{{ [a]|tojson|length }}",
    "sort of shared lists": SHARED_LIST + "{{ [a, a]|sort|length }}",
    "min of shared lists": SHARED_LIST + "{{ [a, a]|min }}",
    "selectattr with shared mappings": SHARED_MAPPING + "{{ [a]|selectattr('x', 'eq', a)|length }}",
    "references to a long text": "{% set a = event.data.text %}{{ [" + "a, " * 900 + "a]|tojson|length }}",
    "references to a long list": "{{ [" + "event.data.big, " * 900 + "1]|tojson|length }}",
    "map with a long path": "{{ event.data.big|map('" + "a." * 25_000 + "')|length }}",
    "sort with a long path": "{{ event.data.big|sort(attribute='" + "a." * 25_000 + "')|length }}",
    "unique with a long path": "{{ event.data.big|unique(attribute='" + "a." * 25_000 + "')|length }}",
    "selectattr with a long path": "{{ event.data.big|selectattr('" + "a." * 25_000 + "')|length }}",
    "slices": "{{ event.data.ints[0:]|length }}" * 300,
    "slices of a text": "{{ event.data.text[::-1]|length }}" * 900,
    "a search that compares all pairs": NEEDLE + "{{ n in event.data.text }}" * 100,
    "replace that compares all pairs": NEEDLE + "{{ event.data.text|replace(n, '')|length }}" * 100,
    "split that compares all pairs": NEEDLE + "{{ event.data.text|split(n)|length }}" * 100,
    "titles": "{{ event.data.text|title|length }}" * 100,
    "urlencode": "{{ event.data.text|urlencode|length }}" * 100,
    "numbers of many digits": "{{ event.data.text|replace('x', '9')|int }}",
    "lists that are too deep": "{% set a = [1] %}" + "{% set a = [a] %}" * 300 + "{{ a|tojson }}",
    "string times number": "{{ 'a' * 1000000000 }}",
    "number times string": "{{ 1000000000 * 'a' }}",
    "list times number": "{{ [1] * 1000000000 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "percent format": "{{ '%1000000000d' % 1 }}",
    "center": "{{ 'x'|center(1000000000) }}",
    "indent": "{{ 'x'|indent(1000000000) }}",
    "round": "{{ 5|round(-1000000000) }}",
    "a number of many digits": "{{ " + "9" * 5000 + " }}",
    "numbers that grow": "{% set a = 99999999999 %}" + "{% set a = a * a %}" * 40 + "{{ a }}",
    "strings that double with ~": "{% set a = 'xxxxxxxx' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    "strings that double with +": "{% set a = 'xxxxxxxx' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
    "lists that double": "{% set a = [1, 2] %}" + "{% set a = a + a %}" * 40 + "{{ a|length }}",
    "replace that grows": "{{ 'a'|replace('a', event.data.text)|replace('x', event.data.text) }}",
    "replace of nothing": "{{ 'a'|replace('', event.data.text) }}",
    "join with a long text": "{{ event.data.ints|join(event.data.text) }}",
    "output in segments": "{{ event.data.text }}{{ event.data.text }}",
    "output of a loop": "{% for i in event.data.ints %}xxxxx{% endfor %}",
    "a loop in a loop": "{% for a in event.data.big %}{% for b in event.data.big %}{% endfor %}{% endfor %}",
    "in, in a loop": "{% for a in event.data.ints %}{{ a in event.data.ints }}{% endfor %}",
    "is in, in a loop": "{% for a in event.data.ints %}{{ a is in(event.data.ints) }}{% endfor %}",
    "== in a loop": "{% for a in event.data.ints %}{{ event.data.big == event.data.big }}{% endfor %}",
    "deep == in a loop": "{% for a in event.data.big %}{{ event.data.nest == event.data.nest[0:] }}{% endfor %}",
    "a loop's own if": "{% for a in event.data.ints if event.data.nest in event.data.nest %}{% endfor %}",
    "tojson in a loop": "{% for a in event.data.ints %}{{ event|tojson|length }}{% endfor %}",
    "upper in a loop": "{% for a in event.data.ints %}{{ event.data.text|upper|length }}{% endfor %}",
    "sort in a loop": "{% for a in event.data.ints %}{{ event.data.ints|sort|length }}{% endfor %}",
    "selectattr with in": "{{ event.data.big|selectattr('v', 'in', event.data.ints)|length }}" * 3,
    "globs": "{% for a in event.data.ints %}{{ event.data.text is matching('*x*x*x*y') }}{% endfor %}",
    "long glob": "{{ 'a' is matching(event.data.text) }}",
    "work without a loop": "{{ event.data.ints == event.data.ints[0:] }}" * 300,
    "deep brackets": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "deep lists": "{{ " + "[" * 200 + "]" * 200 + "|length }}",
    "deep not": "{{ " + "not " * 900 + "1 }}",
    "long sum": "{{ 1" + " + 1" * 500 + " }}",
    "long path": "{{ event" + ".a" * 20_000 + " }}",
    "long path in brackets": "{{ event" + "['a']" * 5000 + " }}",
    "deep if": "{% if true %}" * 50 + "{% endif %}" * 50,
    "deep for": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "many expressions": "{{ 1 }}" * 6000,
    "a long template": "x" * 70_000 + "{{ 1 }}",
    "many braces": "{{" * 5000,
    "many comments": "{#" * 5000,
}


@pytest.mark.parametrize("template", EXHAUSTING.values(), ids=EXHAUSTING)
def test_a_template_cannot_exhaust_the_machine(template):
    """A template that would take gigabytes or minutes is refused within about a tenth of a second."""
    started = time.process_time()
    with pytest.raises(TemplateInvalid):
        compile_tree({"x": template}, path="a.yaml", line_of=lambda leaf: 1).render(make_context(EVENT))

    assert time.process_time() - started < 5  # far above what it takes, far below what it would take


@pytest.mark.parametrize("template", [name for name in EXHAUSTING.values() if "tojson" in name and "set a" in name])
def test_json_is_refused_before_it_is_written(template, monkeypatch):
    """JSON that would be too long or too deep is never written, not even into memory."""
    written = []

    def dumps(value, option):
        written.append(value)
        return b"[]"

    monkeypatch.setattr(values, "orjson", SimpleNamespace(dumps=dumps))

    with pytest.raises(TemplateInvalid):
        compile_tree({"x": template}, path="a.yaml", line_of=lambda leaf: 1).render(make_context(EVENT))

    assert written == []


@pytest.mark.parametrize(
    ("template", "units"),
    [
        ("{{ event.data.ints|first }}", 10),
        ("{{ event.data.ints|length }}", 10),
        ("{{ 'a' in event.data.big[0] }}", 20),
        ("{{ version.name ~ '-' ~ alias }}", 20),
    ],
)
def test_an_operation_that_looks_at_little_costs_little(template, units):
    """The size of a value does not count if an operation looks only at one element."""
    compile_text(template, path="").render({**make_context(EVENT), "version": {"name": "v1"}, "alias": "x"})

    assert MAX_WORK - BUDGET.work <= units


def test_a_list_of_lists_can_be_made_unique():
    """Elements are compared by their content, whatever their kind."""
    assert compile_text("{{ [[1], [1], (1,), {'a': 1}]|unique|tojson }}", path="").render({}) == '[[1],{"a":1}]'


def test_membership_in_a_chain_of_comparisons_is_refused():
    """`1 < 2 in [2]` has a meaning in Python that nobody expects. The error says what to write."""
    with pytest.raises(TemplateInvalid, match="join two comparisons with `and`"):
        compile_text("{{ 1 < 2 in [2] }}", path="")


def test_limits_apply_to_a_whole_step():
    """All leaves of a step share one limit. The next render starts with a full budget."""
    half = "{{ event.data.text[:40000] }}"
    one = compile_tree({"a": half}, path="", line_of=lambda leaf: None)
    two = compile_tree({"a": half, "b": [half]}, path="", line_of=lambda leaf: None)
    context = make_context(EVENT)

    assert len(one.render(context)["a"]) == len(one.render(context)["a"]) == 40_000
    with pytest.raises(TemplateInvalid, match="longer than 64 KB"):
        two.render(context)


def test_output_is_counted_in_bytes():
    """The limit of 64 KB counts bytes of UTF-8, and exactly that much is allowed."""
    context = make_context(
        custom_event(fits="é" * (MAX_OUTPUT_BYTES // 2), not_fits="é" * (MAX_OUTPUT_BYTES // 2) + "!")
    )

    assert compile_text("{{ event.data.fits }}", path="").render(context)
    with pytest.raises(TemplateInvalid, match="longer than 64 KB"):
        compile_text("{{ event.data.not_fits }}", path="").render(context)


def test_the_deepest_allowed_templates_can_be_rendered():
    """Python's compiler accepts every template that the allow-list accepts."""
    for template in (
        "{{ " + "[" * 37 + "]" * 37 + "|tojson }}",
        "{{ 1" + "+1" * 37 + " }}",
        "{{ true" + " and true" * 37 + " }}",
        "{{ 1" + "|string" * 37 + " }}",
        "{{ " + "1 if true else " * 37 + "2 }}",
        "{{ " + "(true == " * 18 + "true" + ")" * 18 + " }}",
        "{% for a in [1] if a > 0 %}" * 8 + "{{ loop.index }}" + "{% else %}x{% endfor %}" * 8,
        "{% if true %}" * 8 + "x" + "{% else %}y{% endif %}" * 8,
    ):
        assert compile_text(template, path="").render({})
