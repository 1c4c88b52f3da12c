"""How much better one version answers the held-out photos now than another, query by query, each as it would serve."""

from collections.abc import Sequence

import numpy as np

from ml.evaluation.intervals import Interval
from searchapp.models import Deployment
from searchapp.services.gallery_columns import read_entries
from searchapp.services.held_out import HeldOut, held_out_queries
from searchapp.services.held_out_answers import Values
from searchapp.services.measured_intervals import difference_of
from searchapp.services.verdict_galleries import photos_judged
from searchapp.services.verdict_matrix import Question, side_of


def change_now(target: Deployment, live: Deployment) -> Interval | None:
    """Of mean average precision, `target` less `live`, paired on the same queries; None when they share none."""
    queries = held_out_queries()
    own, other = (_values(deployment, queries) for deployment in (target, live))
    items = np.array([query.cluster for query in queries], np.int64)  # photos of one item are not independent
    return difference_of(own["map"], other["map"], items)


def _values(deployment: Deployment, queries: Sequence[HeldOut]) -> Values:
    version = deployment.version
    question = Question(queries, photos_judged(read_entries(version), queries))
    side = side_of(version, question, _unheard, deployment.view.corrector_digest)
    return question.answers(side, side.view, _unheard).values


def _unheard(_done: int, _total: int) -> None:
    """Nobody waits for this on a page."""
