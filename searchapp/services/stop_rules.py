"""The rule by which a canary ends by itself: what it may hold, and how it reads.

    {"errors": 0.02, "p95_factor": 2.0, "wrong": 0.05, "least_queries": 50, "minutes": null}

`errors`: most of its latest queries that may fail. `p95_factor`: so many times the champion's p95 its own may be.
`wrong`: the level of the sequential test on answers that are wrong or failed. `least_queries`: of each arm, before
shares and times are judged. `minutes`: how long it runs at most. null: not judged. Looked at by services.canary_watch.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from searchapp.exceptions import InvalidInput
from searchapp.models import Deployment
from searchapp.services.arm_choice import WHOLE

Rule = dict[str, float | None]
DEFAULT_RULE: Mapping[str, float | None] = {
    "errors": 0.02,
    "p95_factor": 2.0,
    "wrong": 0.05,
    "least_queries": 50,
    "minutes": None,
}
# Lowest and highest of each; least_queries alone cannot be left out.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "errors": (0.0, 1.0),
    "p95_factor": (1.0, 100.0),
    "wrong": (0.0001, 0.5),
    "least_queries": (1, 100_000),
    "minutes": (1, 60 * 24 * 90),
}


def rule_checked(values: Mapping[str, Any] | None) -> Rule:
    """The whole rule of what was sent; the rest is as in DEFAULT_RULE. Raises InvalidInput (fields: stop_rule)."""
    sent = dict(values or {})
    unknown = sorted(set(sent) - set(DEFAULT_RULE))
    if unknown:
        raise _invalid(f"there is no {unknown[0][:60]!r}; there are {', '.join(DEFAULT_RULE)}")
    rule = {**DEFAULT_RULE, **sent}
    for name, (low, high) in BOUNDS.items():
        value = rule[name]
        if value is None and name != "least_queries":
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if not is_number or not low <= value <= high:
            raise _invalid(f"{name} is {value!r:.60}, allowed: {low:g} to {high:g}")
    return rule


def rule_judged(deployment: Deployment) -> Rule:
    """The whole rule of a candidate, without what cannot be judged of it.

    What the shadow answers nobody sees, and beside a candidate that gets every query of its scope nothing is tested.
    """
    rule = {**DEFAULT_RULE, **deployment.stop_rule}
    if deployment.is_shadow:
        return {**rule, "p95_factor": None, "wrong": None}
    return rule if deployment.share < WHOLE else {**rule, "wrong": None}


def rule_words(rule: Mapping[str, Any]) -> list[str]:
    """Each part of a rule as a sentence of when the canary stops."""
    whole = {**DEFAULT_RULE, **rule}
    least = f"{whole['least_queries']:,.0f}"
    said = {
        "errors": "when more than {:.3g} % of its latest queries fail, judged after " + least,
        "p95_factor": "when its slowest 5 % take {:g} times as long as the champion's, judged after " + least,
        "wrong": "when it is shown, at level {:g}, that more of its answers are wrong or fail",
        "minutes": "after {:,.0f} minutes",
    }
    shown = {**whole, "errors": None if whole["errors"] is None else 100 * whole["errors"]}
    return [words.format(shown[name]) for name, words in said.items() if shown[name] is not None]


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(f"stop_rule: {problem}.", fields={"stop_rule": f"{problem}."})
