"""Suggestions for unknown words."""

from upshot.suggestions import MAX_LISTED, did_you_mean


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
