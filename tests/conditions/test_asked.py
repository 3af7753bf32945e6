"""What a user asks for, as typed and as read."""

from __future__ import annotations

import pytest

from motionloom.conditions.asked import read_asked
from motionloom.errors import ConfigError

WORDS = ("clouds", "sea")


def test_a_direction_is_a_unit_vector_of_the_picture() -> None:
    said = ["clouds@left", "clouds@up", "sea@-90", "sea"]
    asked = read_asked(said, [None] * 4, WORDS)
    assert [one.name for one in asked] == ["clouds", "clouds", "sea", "sea"]
    assert [one.said for one in asked] == said
    assert asked[0].direction == pytest.approx((-1, 0)) and asked[1].direction == pytest.approx((0, -1))
    assert asked[2].direction == pytest.approx((0, 1)) and asked[3].direction is None


@pytest.mark.parametrize("typed", ["clouds@", "clouds@norh", "clouds@nan", "clouds@inf"])
def test_a_direction_that_is_none_is_refused_with_an_example(typed: str) -> None:
    with pytest.raises(ConfigError, match="expected right, up, left, down or degrees.*clouds@left"):
        read_asked([typed], [None], WORDS)
