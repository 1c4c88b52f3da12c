"""POST /model-versions/import: a version from outside, as a file."""

from django.core.files.uploadedfile import UploadedFile
from drf_spectacular.utils import OpenApiRequest
from rest_framework.parsers import MultiPartParser

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.jobs import accepted
from searchapp.api.schema import operation
from searchapp.api.search import sent_values
from searchapp.exceptions import InvalidInput
from searchapp.services import version_intake


class ModelVersionImportView(ApiView):
    """A bundle as a zip: manifest, safetensors and ONNX files alone. It becomes a candidate; nothing serves by it yet.

    What is no bundle, a damaged one, or one that is here already is refused at once; the job compares its graph with
    its weights. The job's `result` has the version and its parent.
    """

    parser_classes = (MultiPartParser,)

    @operation(
        "model_version_import",
        "Take in a version from outside; it ends as a candidate",
        request={"multipart/form-data": OpenApiRequest(documents.VersionImportInput)},
        answers={202: documents.Job},
        errors=(409, 413, 415, 507),
    )
    def post(self, request: Request) -> Response:
        upload = sent_values(request).get("file")
        if not isinstance(upload, UploadedFile):
            message = "file must be one zip in a multipart form."
            raise InvalidInput(message, fields={"file": message})
        job = version_intake.version_upload(chunks=upload.chunks(), name=upload.name or "", user=self.person)
        return accepted(job)
