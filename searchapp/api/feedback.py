"""What people say of one result of one answer."""

from uuid import UUID

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.parsers import BoundedJSONParser
from searchapp.api.schema import operation
from searchapp.services import query_log, throttling


class FeedbackView(ApiView):
    """Right or wrong, by the `query_id` of the answer. Said again, the last word counts."""

    parser_classes = (BoundedJSONParser,)

    @operation(
        "feedback",
        "Say whether a result was right",
        request=documents.FeedbackInput,
        answers={204: None},
        errors=(404, 413, 415, 429),
    )
    def post(self, request: Request, query_id: UUID) -> Response:
        if self.is_anonymous:
            throttling.search_spend(client=self.client, scope="feedback")
        sent = documents.FeedbackInput(data=request.data)
        sent.is_valid(raise_exception=True)
        query_log.feedback_record(query_id, **sent.validated_data, user=self.person)
        return Response(status=204)
