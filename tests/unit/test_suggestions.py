"""Suggestions for unknown words."""

from upshot.suggestions import MAX_LISTED, MAX_NAME_CHARS, MAX_NAMES, did_you_mean


def test_the_most_similar_word_is_suggested():
    """A similar word is suggested, whatever its case."""
    assert did_you_mean("slak", ["webhook", "slack"]) == "; did you mean 'slack'?"
    assert did_you_mean("PRODUCTION", ["Production", "staging"]) == "; did you mean 'Production'?"


def test_valid_words_are_listed_if_none_is_similar():
    """Without a similar word, the valid words are listed in order, unless the caller does not want that."""
    assert did_you_mean("x", ["slack", "emit"]) == "; choose from 'emit', 'slack'"
    assert did_you_mean("x", ["slack", "emit"], list_known=False) == ""
    assert did_you_mean("x", []) == "; none exists yet"


def test_a_long_list_is_cut():
    """Only the first valid words of a long list are shown."""
    suggestion = did_you_mean("x", [f"name-{number:03}" for number in range(100)])

    assert suggestion.count("name-") == MAX_LISTED
    assert suggestion.endswith(", …")


def test_only_the_first_names_are_looked_at():
    """A mapping with thousands of keys costs no more than one with 200."""
    names = iter([*(f"name-{number}" for number in range(MAX_NAMES)), "slack"])

    assert did_you_mean("slak", names, list_known=False) == ""
    assert next(names) == "slack"


def test_long_names_are_not_compared():
    """A name of more than 64 characters is neither compared nor suggested."""
    longest = "x" * MAX_NAME_CHARS

    assert did_you_mean(longest[:-1], [longest], list_known=False) == f"; did you mean {longest!r}?"
    assert did_you_mean(longest, [longest + "x"], list_known=False) == ""
    assert did_you_mean(longest + "x", [longest], list_known=False) == ""
