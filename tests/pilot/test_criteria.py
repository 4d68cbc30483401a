"""Criteria and prices as files."""

from dataclasses import replace

import pytest
import yaml

from cospec.errors import CospecError
from cospec.study.criteria import Criteria, Limits, Softening, write_criteria
from cospec.study.prices import Machine, Prices, write_prices
from cospec.study.results import Results


def written(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_template_says_what_holds_without_one(tmp_path):
    path = tmp_path / "criteria.yaml"
    write_criteria(path)
    assert Criteria.load(path) == Criteria()
    text = path.read_text(encoding="utf-8")
    assert all(f"{name}:" in text for name in Criteria.__dataclass_fields__)
    with pytest.raises(CospecError, match="there already"):
        write_criteria(path)
    with pytest.raises(CospecError, match="cannot be written"):
        write_criteria(tmp_path / "none" / "criteria.yaml")


def test_the_template_of_prices_holds_none_and_has_every_key(tmp_path):
    path = tmp_path / "prices.yaml"
    write_prices(path)
    assert Prices.load(path) == Prices()
    text = path.read_text(encoding="utf-8")
    assert all(f"{name}:" in text for cls in (Prices, Machine) for name in cls.__dataclass_fields__)
    # Its examples hold once they are no comments.
    path.write_text(text.replace("machines: null\n# machines", "machines").replace("#   -", "  -"), encoding="utf-8")
    assert Prices.load(path).per_hour == pytest.approx(0.1 + 2 * 2.5)
    with pytest.raises(CospecError, match="there already"):
        write_prices(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_price_that_is_no_amount_is_refused_wherever_it_comes_from(tmp_path, value):
    with pytest.raises(CospecError, match="at least 0"):
        Machine(name="a", per_hour=value)
    for name in ("electricity_per_kwh", "tokens_per_month"):
        with pytest.raises(CospecError, match=name):
            Prices(**{name: value})
        text = f"{name}: {yaml.safe_dump(value).splitlines()[0]}"
        with pytest.raises(CospecError, match=name):
            Prices.load(written(tmp_path, text))


def test_criteria_are_read_from_a_file(tmp_path):
    text = "planned_concurrency: 4\nmin_speedup: 1.5\nmax_ms_per_token: {p95: 30}\nrelaxed: {lambdas: [0.2, 0.4]}\n"
    found = Criteria.load(written(tmp_path, text))
    assert found.min_speedup == 1.5
    assert found.max_ms_per_token == Limits(p95=30.0)
    assert found.relaxed == Softening(lambdas=(0.2, 0.4))


def test_a_file_asks_for_nothing_that_it_does_not_write(tmp_path):
    nothing = Criteria(min_speedup=None, exactness=False, score_margin=None, min_perplexity_gain=None, optional=())
    assert Criteria.load(written(tmp_path, "")) == nothing
    assert Criteria.load(written(tmp_path, "min_speedup: 1.5")) == replace(nothing, min_speedup=1.5)
    # Required, where nobody calls it optional.
    assert Criteria.load(written(tmp_path, "score_margin: 0.1")) == replace(nothing, score_margin=0.1)


def test_null_is_the_same_as_no_line(tmp_path):
    names = [*Criteria.__dataclass_fields__]
    nothing = Criteria.load(written(tmp_path, ""))
    assert Criteria.load(written(tmp_path, "".join(f"{name}: null\n" for name in names))) == nothing
    inner = "".join(f"  {name}: null\n" for name in Softening.__dataclass_fields__)
    assert Criteria.load(written(tmp_path, f"relaxed:\n{inner}")) == replace(nothing, relaxed=Softening())
    with pytest.raises(CospecError, match="min_speed"):
        Criteria.load(written(tmp_path, "min_speed: null"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_speed: 2", "'min_speed'; did you mean 'min_speedup'"),
        ("min_speedup: fast", "min_speedup: want a number, got 'fast'"),
        ("exactness: 1", "exactness: want true or false, got 1"),
        ("planned_concurrency: true", "planned_concurrency: want a whole number, got True"),
        ("planned_concurrency: 0", "planned_concurrency must be at least 1"),
        ("max_ms_per_token: {p90: 3}", "max_ms_per_token 'p90'"),
        ("max_ms_per_token: 3", "max_ms_per_token: want keys and values"),
        ("score_margin: 2", "score_margin must be above 0"),
        ("optional: min_speedup", "optional: want a list"),
        ("optional: [speed]", "rule in `optional` 'speed'"),
        ("relaxed: {lambdas: [1.5]}", "between 0 and 1"),
        ("relaxed: {lambdas: [a]}", "lambdas[0]: want a number"),
        ("- 3", "want keys and values"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_in_criteria_is_told_by_its_key(tmp_path, text, message):
    with pytest.raises(CospecError) as told:
        Criteria.load(written(tmp_path, text))
    assert message in str(told.value)


def test_prices_are_summed_over_machines(tmp_path):
    text = "machines:\n  - {name: a, per_hour: 2}\n  - {name: b, per_hour: 0.5, count: 2}\ntokens_per_month: 1.0e+9\n"
    found = Prices.load(written(tmp_path, text))
    assert found.per_hour == 3
    assert found.tokens_per_month == 1e9
    assert Prices().per_hour is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machines: [{name: a}]", "machines[0] without `per_hour`"),
        ("machines: [{name: a, per_hour: -1}]", "at least 0"),
        ("electricity_per_kwh: -1", "at least 0"),
        ("currency: 3", "want a text"),
    ],
)
def test_what_is_wrong_in_prices_is_told_by_its_key(tmp_path, text, message):
    with pytest.raises(CospecError) as told:
        Prices.load(written(tmp_path, text))
    assert message in str(told.value)


def test_results_of_another_format_are_refused(tmp_path):
    path = tmp_path / "results.json"
    for text, message in (('{"format": 0}', "run the pilot again"), ("[]", "no results"), ("{", "no results")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CospecError, match=message):
            Results.load(path)
