"""All tables, split by noun."""

from searchapp.models.access import ApiKey
from searchapp.models.audit import AuditEvent
from searchapp.models.catalogue import (
    PATH_SEPARATOR,
    Category,
    Item,
    ItemImage,
    SearchState,
    Tag,
    Vertical,
    stored_path,
    thumbnail_path,
)
from searchapp.models.code_statistics import CodeGram, CodeTally, CountedEntry, PhotoFeature
from searchapp.models.duplicates import DuplicatePair
from searchapp.models.gallery import (
    ChangeKind,
    GalleryChange,
    GalleryCounter,
    GalleryEntry,
    GalleryView,
    Provenance,
)
from searchapp.models.job import FINISHED_STATES, Job, JobState, OutboxMessage
from searchapp.models.model_version import (
    Deployment,
    Evaluation,
    EvaluationQuery,
    EvaluationSet,
    ModelVersion,
)
from searchapp.models.query_log import Click, Feedback, Query, QuerySum
from searchapp.models.upgrade import FlipDecision, OperatorSetting, PairCalibration, Verdict

__all__ = [
    "FINISHED_STATES",
    "PATH_SEPARATOR",
    "ApiKey",
    "AuditEvent",
    "Category",
    "ChangeKind",
    "Click",
    "CodeGram",
    "CodeTally",
    "CountedEntry",
    "Deployment",
    "DuplicatePair",
    "Evaluation",
    "EvaluationQuery",
    "EvaluationSet",
    "Feedback",
    "FlipDecision",
    "GalleryChange",
    "GalleryCounter",
    "GalleryEntry",
    "GalleryView",
    "Item",
    "ItemImage",
    "Job",
    "JobState",
    "ModelVersion",
    "OperatorSetting",
    "OutboxMessage",
    "PairCalibration",
    "PhotoFeature",
    "Provenance",
    "Query",
    "QuerySum",
    "SearchState",
    "Tag",
    "Verdict",
    "Vertical",
    "stored_path",
    "thumbnail_path",
]
