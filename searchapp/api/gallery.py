"""The stored gallery, for operators: correct it for a newer version, or encode what older ones left."""

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.jobs import accepted
from searchapp.api.schema import operation
from searchapp.exceptions import IncompatibleVersion, NotFound
from searchapp.models import ModelVersion
from searchapp.services import backfilling, correcting, versions


class CorrectView(ApiView):
    """A sample of photos is encoded anew, the rest is computed from stored rows; no row changes."""

    @operation(
        "gallery_correct",
        "Correct stored embeddings for the version in use, or for a candidate",
        request=documents.CorrectionInput,
        answers={202: documents.Job},
        errors=(404, 409, 413, 415),
    )
    def post(self, request: Request) -> Response:
        """The job's `result`: the view's digest (null where nothing was changed), predicted and probed error by
        producer, the gate, seconds, and the stored codes' digest before and after."""
        asked = documents.CorrectionInput(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        job = correcting.correction_start(
            user=self.person,
            fit_items=values.get("fit_items"),
            version=_named(values.get("version", "")),
            override_reason=values.get("override", ""),
        )
        return accepted(job)


class BackfillView(ApiView):
    """Encodes photos that only older encoders have seen; entries are only added."""

    @operation(
        "gallery_backfill",
        "Encode older entries by the version in use",
        request=documents.BackfillInput,
        answers={202: documents.Job},
        errors=(409, 413, 415),
    )
    def post(self, request: Request) -> Response:
        """Cancel the job to pause it: what is done stays, and its retry goes on."""
        asked = documents.BackfillInput(data=request.data)
        asked.is_valid(raise_exception=True)
        return accepted(backfilling.backfill_start(user=self.person, **asked.validated_data))


def _named(name: str) -> ModelVersion | None:
    try:
        return versions.version_named(name) if name else None
    except IncompatibleVersion as error:
        raise NotFound(error.message) from error
