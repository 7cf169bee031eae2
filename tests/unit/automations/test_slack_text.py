"""Values in texts for Slack are escaped once. What an author writes is markup."""

from __future__ import annotations

import pytest

from upshot.actions.slack import Slack
from upshot.automations.rendering import ProcessRenderer
from upshot.automations.template import compile_text, compile_tree
from upshot.schema.slack_blocks import text_paths

SLACK = Slack()
CONTEXT = {
    "event": {
        "data": {
            "evil": "<!channel> & <https://x|y>",
            "lines": "a<\nb",
            "n": 3,
            "list": ["<a>", "b"],
            "blocks": [
                {
                    "type": "section",
                    "text": {"type": "mrkdwn", "text": "<!here>"},
                    "accessory": {
                        "type": "button",
                        "text": {"type": "plain_text", "text": "<b>"},
                        "url": "https://x?a&b",
                    },
                }
            ],
            "rich": {"type": "rich_text", "elements": [{"type": "text", "text": "a < b"}]},
        }
    }
}
ESCAPED = "&lt;!channel&gt; &amp; &lt;https://x|y&gt;"


def compiled(with_):
    return compile_tree(with_, path="a.yaml", line_of=lambda _: 1, slack_texts=SLACK.slack_texts(with_))


def text(template):
    return compiled({"text": template}).render(CONTEXT)["text"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ event.data.evil }}", ESCAPED),
        ("*{{ event.data.evil }}* <https://me|me> &", f"*{ESCAPED}* <https://me|me> &"),
        ("{{= event.data.evil }}", ESCAPED),
        ("{{ event.data.evil ~ '' }}", ESCAPED),
        ("{% for x in event.data.list %}<{{ x }}>{% endfor %}", "<&lt;a&gt;><b>"),
        ("{{ event.data.n }}", "3"),
        ("{{ event.data.list | tojson }}", '["&lt;a&gt;","b"]'),
        # `slack` is not escaped again, also after other filters
        ("{{ event.data.evil | slack }}", ESCAPED),
        ("{{= event.data.evil | slack }}", ESCAPED),
        ("{{ event.data.evil | slack | slack | trim | string }}", ESCAPED),
        ("{{ event.data.evil | slack | truncate(12) }}", "&lt;!channe…"),
        ("{{ event.data.evil | slack | truncate(3) }}", "…"),
        ("{{ '<b>' | slack | upper }}", "&lt;B&gt;"),
        ("{{ (event.data.evil | slack)[:7] }}", "&lt;!ch"),
        ("{{ (event.data.list | first | slack) ~ event.data.evil }}", f"&lt;a&gt;{ESCAPED}"),
        ("{{ event.data.list | join('<' | safe) }}", "&lt;a&gt;<b"),
        ("{{ event.data.lines | slack | replace('\\n', '\\n> ' | safe) }}", "a&lt;\n> b"),
        ("{{ event.data.lines | slack | split('\\n') | first }}", "a&lt;"),
        ("{{ event.data.missing | default('<x>') }}", "&lt;x&gt;"),
        # `safe` is markup
        ("{{ event.data.evil | safe }}", "<!channel> & <https://x|y>"),
        ("{{ '<!here>' | safe if event.data.n > 1 else '' }}", "<!here>"),
        ("{{ ('<!here> ' | safe) ~ event.data.evil }}", f"<!here> {ESCAPED}"),
    ],
)
def test_values_in_a_text_are_escaped_once(template, expected):
    """A value cannot mention a channel or make a link, in whatever form the template writes it."""
    rendered = text(template)

    assert rendered == expected
    assert type(rendered) is str


def test_values_in_blocks_are_escaped_where_slack_reads_text():
    """URLs and the texts of rich-text blocks stay as they are."""
    with_ = {
        "webhook": "{{ event.data.evil }}",
        "blocks": [
            {
                "type": "section",
                "text": {"type": "mrkdwn", "text": "{{ event.data.evil }}"},
                "fields": [{"type": "mrkdwn", "text": "{{= event.data.evil }}"}],
                "accessory": {"type": "image", "image_url": "https://x?{{ event.data.evil }}", "alt_text": "x"},
            },
            "{{= event.data.rich }}",
            {"type": "rich_text", "elements": [{"type": "text", "text": "{{ event.data.evil }}"}]},
        ],
    }
    section, rich, own_rich = compiled(with_).render(CONTEXT)["blocks"]

    assert section["text"]["text"] == section["fields"][0]["text"] == ESCAPED
    assert section["accessory"]["image_url"] == "https://x?<!channel> & <https://x|y>"
    assert rich == CONTEXT["event"]["data"]["rich"]
    assert own_rich["elements"][0]["text"] == "<!channel> & <https://x|y>"


@pytest.mark.parametrize(("suffix", "written"), [("", "&lt;!here&gt;"), (" | safe", "<!here>")])
def test_blocks_of_an_event_are_escaped(suffix, written):
    """Blocks that come from an event as a whole are escaped in the same places, unless the author trusts them."""
    (block,) = compiled({"blocks": f"{{{{= event.data.blocks{suffix} }}}}"}).render(CONTEXT)["blocks"]

    assert block["text"]["text"] == written
    assert block["accessory"]["url"] == "https://x?a&b"


def test_other_actions_are_not_escaped():
    """A webhook gets values unchanged. In its inputs, `slack` escapes a value and `safe` changes nothing."""
    tree = compile_tree({"json": {"text": "{{ event.data.evil }}"}}, path="", line_of=lambda _: 1)

    assert tree.render(CONTEXT)["json"]["text"] == CONTEXT["event"]["data"]["evil"]
    keys = compile_tree({"x": "{{= {event.data.evil | slack: 1} }}"}, path="", line_of=lambda _: 1).render(CONTEXT)
    assert keys == {"x": {ESCAPED: 1}}
    assert compile_text("{{ event.data.evil | safe }}", path="").render(CONTEXT) == CONTEXT["event"]["data"]["evil"]
    assert compile_text("{{ event.data.evil | slack }}", path="").render(CONTEXT) == ESCAPED


async def test_an_expensive_text_is_escaped_too():
    """The separate process escapes as well."""
    context = {"event": {"data": {"list": ["<x>"] * 3000}}}
    tree = compiled({"text": "{% for x in event.data.list %}{{ x }}{% endfor %}"})
    renderer = ProcessRenderer()
    try:
        rendered = await renderer.render(tree, context)
    finally:
        renderer.close()

    assert rendered["text"] == "&lt;x&gt;" * 3000


def test_texts_are_found_in_blocks():
    """Only strings at the key `text` are texts."""
    blocks = [{"type": "header", "text": {"type": "plain_text", "text": "a"}}, {"type": "divider"}, "x"]

    assert list(text_paths(blocks, "blocks")) == ["blocks.0.text.text"]
