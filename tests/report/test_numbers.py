"""Numbers as text, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.report import numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (1234, "1.23 k"),
        (2_353_125, "2.35 M"),
        (104_123_000, "104 M"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (999_999_999, "1.00 G"),
        (15_470_000_000, "15.5 G"),
        (None, "–"),
    ],
)
def test_count(number: float | None, text: str) -> None:
    assert numbers.count(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(123, "123 B"), (8_912_000, "8.9 MB"), (99_940, "99.9 kB"), (99_960, "100 kB"), (553_430_000, "553 MB")],
)
def test_size(number: float, text: str) -> None:
    assert numbers.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (4.2139, "4.21 ms"),
        (0.04567, "0.0457 ms"),
        (101.24, "101 ms"),
        (9.996, "10.0 ms"),
        (1234.5, "1230 ms"),
    ],
)
def test_milliseconds(number: float, text: str) -> None:
    assert numbers.milliseconds(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (12.34, "12.3 s"), (59.96, "1 min 00 s"), (245, "4 min 05 s"), (3780, "1 h 03 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "reference", "text"),
    [
        (65, 100, "−35 %"),
        (96, 104, "−7.7 %"),
        (103, 100, "+3.0 %"),
        (100, 100, "±0 %"),
        (99_999, 100_000, "±0 %"),
        (1, 0, ""),
        (None, 5, ""),
        (5, None, ""),
    ],
)
def test_change(number: float | None, reference: float | None, text: str) -> None:
    assert numbers.change(number, reference) == text


def test_accuracies() -> None:
    assert numbers.percent(0.8311) == "83.1 %"
    assert numbers.points(0.8562, 0.8311) == "+2.5 pp"
    assert numbers.points(0.80, 0.8311) == "−3.1 pp"
    assert numbers.points(None, 0.5) == ""


@pytest.mark.parametrize(
    ("number", "target", "signed", "text"),
    [
        (0.0125, "val_accuracy", False, "1.25 pp"),
        (0.0125, "val_accuracy", True, "+1.25 pp"),
        (-0.25, "val_loss", True, "−0.250"),
        (0.00001, "val_accuracy", True, "±0 pp"),
        (None, "val_loss", False, "–"),
    ],
)
def test_gap(number: float | None, target: str, signed: bool, text: str) -> None:
    assert numbers.gap(number, target, signed=signed) == text


def test_decimal() -> None:
    assert [numbers.decimal(number) for number in (0.754, -0.31, None)] == ["0.75", "−0.31", "–"]


@given(st.floats(1, 9e14))
def test_a_count_is_right_to_three_digits(number: float) -> None:
    figure, _, prefix = numbers.count(number).partition(" ")
    scale = 1000 ** ["", "k", "M", "G", "T"].index(prefix)
    assert float(figure) * scale == pytest.approx(number, rel=0.00501)
    assert len(figure.replace(".", "")) <= 3


@pytest.mark.parametrize(
    ("deviation", "mean", "text"),
    [
        (0.0123, "83.1 %", "1.2"),
        (849.0, "2.25 k", "0.85"),
        (39_300, "149 k", "39"),
        (2_500_000, "1.20 M", "2.5"),
        (70.7, "450", "71"),
        (147_000, "497 kB", "147"),
        (12, "600 B", "12"),
        (0.00524, "0.0565 ms", "0.0052"),
        (120.4, "3210 ms", "120"),
        (99.6, "3210 ms", "100"),
        (0.0, "1.00 k", "0"),
        (None, "1.00 k", "–"),
    ],
)
def test_a_deviation_is_in_the_unit_of_the_mean(deviation, mean, text):
    assert numbers.spread(deviation, mean) == text
