"""Inline SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from clinic.charts import HOUR_US, MINUTE_US, Axis, Point, Series, score_chart, sparkline, trend_chart
from clinic.questions import ScorePoint

FROM_US = 1_767_225_600_000_000
AXIS = Axis(40, 140, "/min")


def _chart(points: list[Point], valid_s: float = 14_400) -> str:
    return str(trend_chart("Heart rate", [Series("HR", points)], AXIS, FROM_US, FROM_US + 24 * HOUR_US, valid_s))


def _minutes(first: int, last: int, value: float = 80.0) -> list[Point]:
    return [Point(FROM_US + minute * MINUTE_US, value) for minute in range(first, last)]


def _runs(svg: str) -> int:
    line = re.search(r'<path class="line a" d="([^"]*)"', svg)
    return line[1].count("M") if line else 0


def test_an_unbroken_signal_is_one_line() -> None:
    assert _runs(_chart(_minutes(0, 600))) == 1


def test_a_monitor_that_was_off_for_half_an_hour_leaves_a_gap() -> None:
    assert _runs(_chart(_minutes(0, 200) + _minutes(230, 600))) == 2


def test_hourly_charting_is_joined_though_a_monitor_so_silent_would_not_be() -> None:
    assert _runs(_chart([Point(FROM_US + hour * HOUR_US, 80.0) for hour in range(12)])) == 1


def test_no_line_bridges_longer_than_a_value_counts_as_current() -> None:
    svg = _chart([Point(FROM_US + hour * HOUR_US, 80.0) for hour in (0, 3, 6, 9)], valid_s=7200)
    assert _runs(svg) == 0
    assert svg.count('class="dot a"') == 4


def test_a_value_outside_the_usual_axis_widens_it() -> None:
    svg = _chart([*_minutes(0, 10), Point(FROM_US + 11 * MINUTE_US, 212.0)])
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", svg)]
    assert min(heights) >= 8
    assert "240</text>" in svg


def test_a_point_tells_its_value_and_time_under_the_pointer() -> None:
    root = ElementTree.fromstring(_chart([Point(FROM_US + 90 * MINUTE_US, 82.4)]))
    titles = [title.text for title in root.iter("title")]
    assert titles == ["82 /min · 01:30 UTC"]


def test_names_are_escaped() -> None:
    svg = trend_chart('<b>"&', [Series("<i>", _minutes(0, 3))], Axis(0, 1, "<u>"), FROM_US, FROM_US + HOUR_US, 60)
    ElementTree.fromstring(svg)
    assert "<b>" not in svg
    assert "<i>" not in svg


_points = st.lists(
    st.tuples(st.integers(0, 24 * 60 - 1), st.floats(-1e6, 1e6)).map(
        lambda pair: Point(FROM_US + pair[0] * MINUTE_US, pair[1])
    ),
    max_size=60,
    unique_by=lambda point: point.at_us,
).map(sorted)


@given(_points)
def test_any_points_make_well_formed_svg_within_its_frame(points: list[Point]) -> None:
    svg = _chart(points)
    root = ElementTree.fromstring(svg)
    for circle in root.iter("circle"):
        assert 7.9 <= float(circle.attrib["cy"]) <= 126.1
    assert "style=" not in svg  # the content security policy would drop it
    assert "nan" not in svg


@given(
    st.lists(
        st.tuples(st.integers(0, 239), st.one_of(st.none(), st.integers(0, 20))), max_size=40, unique_by=lambda p: p[0]
    )
)
def test_any_trend_makes_a_well_formed_sparkline(raw: list[tuple[int, int | None]]) -> None:
    points = [
        ScorePoint(FROM_US + minute * MINUTE_US, None if total is None else float(total))
        for minute, total in sorted(raw)
    ]
    root = ElementTree.fromstring(sparkline(points))
    for path in root.iter("path"):
        assert not path.attrib["d"] or path.attrib["d"].startswith("M")
    known = [total for _, total in raw if total is not None]
    assert (
        (f"highest {max(known)}" in root.attrib["aria-label"]) if known else ("No NEWS2" in root.attrib["aria-label"])
    )


def test_a_sparkline_shows_a_pause_as_a_pause() -> None:
    points = [ScorePoint(FROM_US + minute * MINUTE_US, 3.0) for minute in [*range(60), *range(120, 180)]]
    assert str(sparkline(points)).count("M") == 2


def test_a_score_chart_shows_the_worst_of_each_bar() -> None:
    points = [ScorePoint(FROM_US, 2.0, "low"), ScorePoint(FROM_US + MINUTE_US, 8.0, "high")]
    root = ElementTree.fromstring(score_chart("NEWS2", points, Axis(0, 10, ""), FROM_US, FROM_US + 24 * HOUR_US))
    bars = [rect for rect in root.iter("rect") if "bar" in rect.attrib["class"]]
    assert [bar.attrib["class"] for bar in bars] == ["bar band-high"]


def test_a_sparkline_breaks_by_the_patients_own_rhythm() -> None:
    def strokes(minutes: list[int]) -> int:
        points = [ScorePoint(FROM_US - minute * MINUTE_US, 3.0, "low") for minute in sorted(minutes, reverse=True)]
        return str(sparkline(points)).split('class="line" d="')[1].split('"')[0].count("M")

    assert strokes(list(range(0, 200, 2))) == 1
    assert strokes([*range(30), *range(60, 90)]) == 2  # once a minute, then half an hour of nothing
    assert strokes([0, 45, 100, 160, 220]) == 1  # charted about once an hour
    assert strokes([0, 10, 20, 200, 210]) == 2  # nothing bridges two hours
