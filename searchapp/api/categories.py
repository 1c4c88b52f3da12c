"""The category tree."""

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.jobs import accepted
from searchapp.api.parsers import BoundedJSONParser
from searchapp.api.resources import category_resource
from searchapp.api.schema import operation
from searchapp.services import browsing, catalogue, learning


class CategoriesView(ApiView):
    """All categories, in the order of their paths. Making one that exists changes nothing and answers 200."""

    parser_classes = (BoundedJSONParser,)

    @operation("category_list", "List categories", answers={200: documents.CategoryList})
    def get(self, request: Request) -> Response:  # noqa: ARG002
        learned = learning.learned_slugs()
        rows = [category_resource(category, learned) for category in browsing.categories_listed()]
        return Response({"count": len(rows), "results": rows})

    @operation(
        "category_create",
        "Make a category, with those above it",
        request=documents.CategoryInput,
        answers={201: documents.Category, 200: documents.Category},
        errors=(413, 415),
    )
    def post(self, request: Request) -> Response:
        wanted = documents.CategoryInput(data=request.data)
        wanted.is_valid(raise_exception=True)
        path, vertical = wanted.validated_data["path"], wanted.validated_data.get("vertical")
        is_new = not browsing.category_exists(path)
        category = catalogue.category_ensure(path, vertical=vertical)
        resource = category_resource(category, learning.learned_slugs())
        return Response(resource, status=201 if is_new else 200)


class LearnView(ApiView):
    """Categories that came to a gallery in use are learned, and no stored code changes; one job at a time."""

    parser_classes = (BoundedJSONParser,)

    @operation(
        "category_learn",
        "Learn the categories that wait",
        request=documents.LearningInput,
        answers={202: documents.Job},
        errors=(409, 413, 415),
    )
    def post(self, request: Request) -> Response:
        wanted = documents.LearningInput(data=request.data)
        wanted.is_valid(raise_exception=True)
        names = wanted.validated_data.get("categories", [])
        return accepted(learning.learn_start(user=self.person, categories=names))
