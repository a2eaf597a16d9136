"""The first pattern that matches a whole path wins; patterns that win no path are reported."""

from vlt.pytrees.patterns import first_match, match_all

PATHS = ["text/a", "visual/a", "visual/b"]


def test_the_first_match_of_a_path():
    assert first_match(["visual", "visual/.*", ".*"], "visual/a") == 1
    assert first_match(["visual", "text"], "visual/a") is None


def test_dead_and_shadowed_patterns():
    matches = match_all(["visual/.*", "visual", "visual/b", "text/.*"], PATHS)
    assert matches.winner == {"visual/a": 0, "visual/b": 0, "text/a": 3}
    assert matches.dead == [1]
    assert matches.shadowed == {2: ["visual/b"]}


def test_paths_that_no_pattern_matches_have_no_winner():
    assert match_all(["text/.*"], PATHS).winner == {"text/a": 0}
