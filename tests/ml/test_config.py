"""Configurations from plain JSON values hold finite numbers only."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from ml.config import config_from_dict, merged


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    weight: float = 0.5
    pairs: tuple[tuple[float, int], ...] = ((1.0, 2),)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight": NaN}', "config.weight is nan, expected a finite number"),
        ('{"weight": 1e999}', "config.weight is inf, expected a finite number"),
        ('{"inner": {"rate": -Infinity}}', "config.inner.rate is -inf, expected a finite number"),
        ('{"pairs": [[1, 2], [NaN, 3]]}', r"config.pairs\[1\]\[0\] is nan, expected a finite number"),
        (
            '{"weight": 1' + "0" * 400 + "}",
            r"config.weight is beyond 1.79769e\+308, expected a finite number",
        ),
    ],
)
def test_what_is_not_a_finite_number_is_refused_by_its_key(text: str, message: str) -> None:
    values: dict[str, Any] = json.loads(text)
    with pytest.raises(ValueError, match=f"^{message}$"):
        config_from_dict(Outer, values)
    with pytest.raises(ValueError, match=f"^{message}$"):
        merged(Outer(), values)


def test_a_whole_number_is_taken_for_a_float() -> None:
    made = config_from_dict(Outer, {"weight": 10**15, "pairs": [[1, 2]]})
    assert (made.weight, made.pairs) == (1e15, ((1.0, 2),))
    assert type(made.weight) is float
