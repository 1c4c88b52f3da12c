"""One question to one arm: answered, timed and logged. What goes wrong inside a candidate costs no shopper an answer.

Errors that say what is wrong with the question, or that the database is away, are nobody's fault here. Anything else
is the arm's: it is counted in the query log, and where it was a candidate the champion answers instead. A candidate in
the shadow is asked the same once the answer stands (services.shadowing).
"""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError

from searchapp.exceptions import SearchAppError
from searchapp.models import Deployment
from searchapp.services import metrics, query_log, serving, shadowing
from searchapp.services.explanations import Explanation
from searchapp.services.photo_queries import StageClock
from searchapp.services.search_answers import Result, SearchAnswer
from searchapp.services.search_options import SearchOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, as the log and the answer repeat it; `visitor` keeps meeting the same arm."""

    kind: str
    options: SearchOptions
    text: str = ""
    visitor: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    results: tuple[Result, ...]
    explanation: Explanation | None = None


Ask = Callable[[serving.Arm, StageClock], Found]


def answered(asked: Asked, ask: Ask, *, in_shadow: Ask | None = None) -> SearchAnswer:
    """What `ask` finds in the arm of this visitor. Raises what `ask` raises in the champion.

    in_shadow: what a candidate in the shadow is asked, when that is less than `ask`.
    """
    answer = _asked_of_arm(asked, ask)
    if (shadow := serving.shadow_arm(asked.options)) is not None:
        _offered(answer, shadow, in_shadow or ask)
    return answer


def _asked_of_arm(asked: Asked, ask: Ask) -> SearchAnswer:
    clock = StageClock()
    arm = serving.arm_for(asked.visitor, asked.options)
    try:
        return _answered(asked, ask, arm, clock)
    except (SearchAppError, DatabaseError, InterfaceError):
        raise
    except Exception:
        _failed(asked, arm, clock)
        if arm.name == Deployment.Arm.CHAMPION:
            raise
        logger.exception("%s %s failed, the champion answers", arm.name, arm.version)
    return _answered(asked, ask, serving.current().champion, StageClock())


def _answered(asked: Asked, ask: Ask, arm: serving.Arm, clock: StageClock) -> SearchAnswer:
    found = ask(arm, clock)
    answer = SearchAnswer(
        query_id=uuid.uuid4(),
        kind=asked.kind,
        text=asked.text,
        filters={**asked.options.as_filters()},
        arm=arm.name,
        deployment_id=arm.deployment_id,
        model_version=arm.version.name,
        entries=len(arm.view),
        entries_by_version=arm.view.counts_by_producer,
        took_ms=clock.done(),
        results=found.results,
        explanation=found.explanation,
    )
    query_log.query_record(answer, visitor_hash=serving.visitor_hash(asked.visitor, asked.options))
    metrics.search_observe(kind=answer.kind, outcome="answered", took_ms=answer.took_ms)
    return answer


def _offered(answer: SearchAnswer, shadow: serving.Arm, ask: Ask) -> None:
    def skus_of(arm: serving.Arm) -> list[str]:
        return [result.sku for result in ask(arm, StageClock()).results]

    shadowing.offer(answer.query_id, [result.sku for result in answer.results], shadow, skus_of)


def _failed(asked: Asked, arm: serving.Arm, clock: StageClock) -> None:
    query_log.failure_record(
        kind=asked.kind,
        text=asked.text,
        filters=asked.options.as_filters(),
        version=arm.version.name,
        arm=arm.name,
        deployment_id=arm.deployment_id,
        took_ms=clock.done(),
        visitor_hash=serving.visitor_hash(asked.visitor, asked.options),
    )
    metrics.search_observe(kind=asked.kind, outcome="arm_failed")
