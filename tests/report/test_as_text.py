"""How numbers, settings, means and differences read."""

import pytest

from compress.report.table import as_text

FIGURES = {
    0.7564: "0.7564", 2.0921: "2.092", 60: "60.00", 15500: "15,500", 9999.96: "10,000", 0: "0.000",
    1e-5: "0.00001000",
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), FIGURES.items())
def test_four_digits_and_no_exponent(value: float, text: str) -> None:
    assert as_text.significant(value) == text
    assert as_text.millions(value * 1e6) == text


def test_a_budget_is_padded_only_beside_a_spread() -> None:
    assert [as_text.in_budget_unit("flops_limit", value) for value in (60, 0.9992, 15500)] == [
        "60 M",
        "0.9992 M",
        "15,500 M",
    ]
    assert as_text.in_budget_unit("flops_limit", 60, padded=True) == "60.00 M"
    assert as_text.in_budget_unit("percent", 0.5) == "50.00 %"


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        ("49.86 %", "0.1 %", "49.86 ± 0.10 %"),
        (as_text.millions(2.092e6), as_text.millions(64), "2.092 ± 0.000"),
        ("60.00 M", "0.3000 M", "60.00 ± 0.30 M"),
        ("+1.33", "+0.59", "+1.33 ± 0.59"),
        ("165,659", "56,086", "165,659 ± 56,086"),
        (as_text.scientific(0.05), as_text.scientific(0.001), "5.0000e-02 ± 1.0000e-03"),
    ],
)
def test_a_spread_has_the_places_of_its_mean(mean: str, deviation: str, text: str) -> None:
    assert as_text.with_sd(mean, deviation) == text


def test_noise_of_floats_is_no_spread() -> None:
    assert as_text.mean_and_sd([1.33, 1.33 + 1e-14])[1] == 0
    assert as_text.mean_and_sd([0.1 + 0.2 - 0.3, 0.0])[1] == 0
    assert as_text.mean_and_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)


def test_differences_are_in_one_unit_each() -> None:
    assert as_text.difference_in_points(1.33, 1.33 + 1e-14) == "+0.00"
    assert as_text.difference_in_points(1.33, 1.0) == "-0.33"
    assert as_text.difference_of_shares(0.3, 0.3 - 1e-17) == "+0.00 points"
    assert as_text.difference_of_shares(0.5, 0.49999) == "+0.00 points"
    assert as_text.difference_of_shares(0.25, 0.75) == "+50.00 points"
    assert as_text.difference_in_percent(2_092_000, 2_092_640) == "+0.0 %"
    assert as_text.difference_in_percent(4.0, 3.0) == "-25.0 %"
    assert [as_text.difference_in_percent(0, 1), as_text.difference_in_percent(0, 0)] == ["", "+0.0 %"]
    assert as_text.difference_of_counts(10, 25) == "+15"
    assert as_text.difference_with_exponent(0.05, 0.0501) == "+1.0e-04"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (0.05, "0.05"), ([1, "a"], "[1,a]"), ("kd", "kd"), (3, "3")]
)
def test_a_setting_reads_as_it_is_written(value: object, text: str) -> None:
    assert as_text.setting(value) == text
