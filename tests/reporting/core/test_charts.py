"""Charts: well-formed, titled, inside their box, and nothing that a strict policy would refuse."""

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from reporting.core import charts
from reporting.core.statuses import LOOKS, verdict
from reporting.core.words import lasting
from workflow.derived_status import STATUSES

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
numbers = st.floats(0, 1e9, allow_nan=False)
gaps = st.lists(st.none() | numbers, max_size=40)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)
TITLE = '"Tasks" <an hour> & more'


def read(chart: str) -> ElementTree.Element:
    """Parse a chart, and see that it is one."""
    root = ElementTree.fromstring(chart)
    assert root.attrib["role"] == "img"
    assert root[0].tag == "title"
    assert root[0].text == TITLE
    assert root.attrib["aria-labelledby"] == root[0].attrib["id"]
    assert "style" not in chart
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for shape in root.iter("rect"):
        x, wide = float(shape.attrib["x"]), float(shape.attrib["width"])
        y, high = float(shape.attrib["y"]), float(shape.attrib["height"])
        assert x >= -0.1
        assert x + wide <= width + 2
        assert y >= -0.1
        assert y + high <= height + 0.2
    return root


@given(gaps, st.lists(st.tuples(texts, numbers), max_size=30), st.lists(st.tuples(texts, numbers, texts), max_size=8))
def test_numbers_of_any_kind_become_charts(values, pairs, parts):
    read(charts.sparkline(values, title=TITLE, chart_id="a"))
    read(charts.line({"x": values, "y": values[::-1]}, title=TITLE, chart_id="b", limit=30.0, unit="s"))
    assert len(list(read(charts.bars(pairs, title=TITLE, chart_id="c")).iter("rect"))) == len(pairs)
    read(charts.stacked_bar(parts, title=TITLE, chart_id="d"))
    read(charts.tracker([(label, tone) for label, _, tone in parts], title=TITLE, chart_id="e"))


@given(st.lists(st.tuples(texts, st.integers(-90, 90), st.integers(0, 60)), max_size=20))
def test_what_lasted_stands_in_its_lane_within_the_hours_shown(found):
    minute = timedelta(minutes=1)
    spans = [charts.Span(lane, BEGIN + at * minute, BEGIN + (at + long) * minute, "x") for lane, at, long in found]
    root = read(charts.timeline(spans, begin=BEGIN, end=BEGIN + 60 * minute, title=TITLE, chart_id="f"))
    assert len(list(root.iter("text"))) == len({lane for lane, _, _ in found})


def test_a_gap_breaks_a_line_and_a_lone_point_is_seen():
    root = read(charts.sparkline([1, 2, None, 3, None], title=TITLE, chart_id="a"))
    assert len(list(root.iter("polyline"))) == 2


def test_a_chart_has_its_numbers_in_a_table():
    figure = charts.with_table(charts.tracker([], title=TITLE, chart_id="a"), chart_id="a", heads=["at"], rows=[["<1>"]])
    cells = [cell.text for cell in ElementTree.fromstring(figure).iter("td")]
    assert cells == ["<1>"]


def test_every_derived_status_has_a_look():
    assert set(LOOKS) == set(STATUSES)


def test_the_verdict_names_first_who_needs_help():
    assert verdict({"working": 3, "silent": 1, "paused": 1}) == (
        "1 Nova of 5 needs help: 1 silent. 3 up and running, 1 paused."
    )
    assert verdict({"idle": 2, "paused": 1}) == "No Nova needs help: 2 of 3 up and running. 1 paused."
    assert verdict({"archived": 4}) == "There are no Novas yet."


def test_how_long_something_lasted_is_one_number():
    assert [lasting(s) for s in (-3, 0, 45, 119, 120, 7199, 7200, 172_800, 1e8)] == [
        "0 s", "0 s", "45 s", "119 s", "2 min", "119 min", "2 h", "2 d", "1,157 d",
    ]  # fmt: skip
