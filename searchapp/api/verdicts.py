"""The judgement of a version beside another, for operators: have it made, and read it."""

from drf_spectacular.types import OpenApiTypes

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.jobs import accepted
from searchapp.api.schema import operation, parameter
from searchapp.exceptions import IncompatibleVersion, NotFound
from searchapp.models import ModelVersion
from searchapp.services import evaluating, versions
from searchapp.services.verdicts import report_of, verdict_of

AGAINST = parameter(
    "against", OpenApiTypes.STR, "The version to compare with; the default is the one in use."
)


class EvaluateView(ApiView):
    @operation(
        "model_version_evaluate",
        "Judge a version beside another on held-out photos",
        request=documents.EvaluationInput,
        answers={202: documents.Job},
        errors=(404, 409, 413, 415),
    )
    def post(self, request: Request, version: str) -> Response:
        """The job's `result` has the gates; GET answers with the whole verdict then."""
        asked = documents.EvaluationInput(data=request.data)
        asked.is_valid(raise_exception=True)
        against, set_name = asked.validated_data.get("against", ""), asked.validated_data.get("set", "")
        job = evaluating.evaluation_start(
            version=_named(version),
            against=_named(against) if against else None,
            user=self.person,
            set_name=set_name,
        )
        return accepted(job)

    @operation(
        "model_version_verdict",
        "The newest verdict on a version",
        parameters=[AGAINST],
        answers={200: documents.Verdict},
        errors=(404, 409),
    )
    def get(self, request: Request, version: str) -> Response:
        """404 when there is none that holds: never made, or the held-out photos have changed since."""
        against = request.query_params.get("against", "")
        own = _named(version)
        other = _named(against) if against else evaluating.compared_with(own)
        verdict = verdict_of(own, other)
        if verdict is None:
            raise NotFound(
                f"There is no verdict on {own.name} beside {other.name} that holds; POST makes one."
            )
        return Response(report_of(verdict))


def _named(name: str) -> ModelVersion:
    try:
        return versions.version_named(name)
    except IncompatibleVersion as error:
        raise NotFound(error.message) from error
