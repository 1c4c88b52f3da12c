"""Model versions, for operators: what there is, a new one, and which one is in use."""

from django.db.models import Prefetch

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.jobs import accepted
from searchapp.api.resources import version_resource
from searchapp.api.schema import operation
from searchapp.exceptions import IncompatibleVersion, NotFound
from searchapp.models import Deployment, ModelVersion
from searchapp.services import base_training, candidate_training, deploying, versions


class ModelVersionsView(ApiView):
    @operation(
        "model_version_list", "List model versions and what serves", answers={200: documents.VersionList}
    )
    def get(self, request: Request) -> Response:  # noqa: ARG002
        live = Prefetch("deployments", Deployment.objects.filter(ended_at__isnull=True))
        rows = ModelVersion.objects.select_related("parent").prefetch_related(live)
        listed = [version_resource(version) for version in rows]
        return Response({"count": len(listed), "results": listed})

    @operation(
        "model_version_train",
        "Train a new version; it ends as a candidate",
        request=documents.TrainingInput,
        answers={202: documents.Job},
        errors=(409, 413, 415),
    )
    def post(self, request: Request) -> Response:
        """The job's `result` has the version, its figures beside those of the version in use, and the gates."""
        asked = documents.TrainingInput(data=request.data)
        asked.is_valid(raise_exception=True)
        values = dict(asked.validated_data)
        if values["method"] in documents.TrainingInput.BASE:
            del values["method"]
            return accepted(base_training.base_training_start(user=self.person, **values))
        return accepted(candidate_training.candidate_start(user=self.person, **values))


class PromoteView(ApiView):
    """Checks the version, then moves the pointer; every process follows within two seconds.

    With a share below 100 or a scope it becomes a canary beside the version in use, with `shadow` one that is asked
    and not shown. 409 names every gate that does not pass, and when another operator was a moment earlier.
    """

    @operation(
        "model_version_promote",
        "Put a version in use, or give it a part of the queries",
        request=documents.PromotionInput,
        answers={202: documents.Job},
        errors=(404, 409, 413, 415),
    )
    def post(self, request: Request, version: str) -> Response:
        asked = documents.PromotionInput(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        try:
            wanted = versions.version_named(version)
        except IncompatibleVersion as error:
            raise NotFound(error.message) from error
        job = deploying.version_promote(
            version=wanted,
            user=self.person,
            override_reason=values.get("override", ""),
            share=values.get("share", deploying.WHOLE),
            scope=values.get("scope"),
            shadow=values.get("shadow", False),
            change_note=values.get("change_note", ""),
            stop_rule=values.get("stop_rule"),
            expected_deployment=values.get("deployment"),
        )
        return accepted(job)


class RollbackView(ApiView):
    """Undoes the last deployment of any kind: a canary or a shadow ends, else the version before serves again. The job
    is done when this answers."""

    @operation(
        "rollback",
        "Go back to the version before",
        request=documents.RollbackInput,
        answers={202: documents.Job},
        errors=(409, 413, 415),
    )
    def post(self, request: Request) -> Response:
        asked = documents.RollbackInput(data=request.data)
        asked.is_valid(raise_exception=True)
        deployment = asked.validated_data.get("deployment")
        return accepted(deploying.version_rollback(user=self.person, expected_deployment=deployment))
