"""The suite is run whole: what is marked for the soak is where the soak looks for it."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def test_every_soak_test_is_in_a_place_that_make_soak_names():
    named = re.findall(r"^SOAK_OF_\w+ := (.+)$", (TESTS.parent / "Makefile").read_text(), re.MULTILINE)
    places = [TESTS.parent / place for line in named for place in line.split()]
    marked = [file for file in TESTS.rglob("test_*.py") if "pytest.mark." + "soak" in file.read_text()]
    assert len(marked) > 5
    assert [file for file in marked if not any(file.is_relative_to(place) for place in places)] == []
