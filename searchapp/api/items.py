"""Items of the catalogue and their photos."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiRequest, extend_schema
from rest_framework.parsers import BaseParser, MultiPartParser

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.pagination import MAX_PAGE, MAX_PAGE_SIZE, page_of
from searchapp.api.parsers import BoundedJSONParser
from searchapp.api.resources import image_resource, item_resource
from searchapp.api.schema import operation, parameter
from searchapp.api.search import sent_file, sent_values
from searchapp.models import SearchState, Vertical
from searchapp.services import browsing, catalogue, throttling
from searchapp.services.search_options import SearchOptions

FILTERS = [
    parameter("category", OpenApiTypes.STR, "Slug or whole path; means its subtree."),
    parameter("vertical", OpenApiTypes.STR, "Products or landmarks.", enum=Vertical.values),
    parameter("tag", OpenApiTypes.STR, "May be repeated; every tag is required.", many=True),
    parameter("price_min", OpenApiTypes.NUMBER, "0 or more."),
    parameter("price_max", OpenApiTypes.NUMBER, "0 or more."),
    parameter("text", OpenApiTypes.STR, "Words in title, description, category or tags; the best 500 items."),
    parameter("state", OpenApiTypes.STR, "For staff: can its photos be found?", enum=SearchState.values),
    parameter("page", OpenApiTypes.INT, f"1 to {MAX_PAGE}."),
    parameter("page_size", OpenApiTypes.INT, f"1 to {MAX_PAGE_SIZE}."),
]


class ItemsView(ApiView):
    parser_classes = (BoundedJSONParser,)

    @operation(
        "item_list",
        "List items, newest first",
        parameters=FILTERS,
        answers={200: documents.ItemPage},
        errors=(429,),
    )
    def get(self, request: Request) -> Response:
        wanted = _wanted(request, is_staff=self.is_staff)
        if self.is_anonymous and wanted.text.strip():
            throttling.search_spend(client=self.client)
        items = browsing.items_listed(wanted, with_state=self.is_staff)
        rows, envelope = page_of(items, request.query_params)
        if self.is_anonymous:
            throttling.items_spend(client=self.client, skus=[item.sku for item in rows])
        return Response(
            {**envelope, "results": [item_resource(item, is_staff=self.is_staff) for item in rows]}
        )

    @operation(
        "item_create",
        "Make an item, without photos",
        request=documents.ItemInput,
        answers={201: documents.Item},
        errors=(409, 413, 415),
    )
    def post(self, request: Request) -> Response:
        fields = _fields(documents.ItemInput(data=request.data))
        item = browsing.item_named(catalogue.item_create(**fields).sku, with_state=True)
        return Response(item_resource(item, is_staff=True), status=201)


class ItemView(ApiView):
    parser_classes: tuple[type[BaseParser], ...] = (BoundedJSONParser,)

    @operation("item_read", "One item", answers={200: documents.Item}, errors=(404, 429))
    def get(self, request: Request, sku: str) -> Response:  # noqa: ARG002
        item = browsing.item_named(sku, with_state=self.is_staff)
        if self.is_anonymous:
            throttling.items_spend(client=self.client, skus=[item.sku])
        return Response(item_resource(item, is_staff=self.is_staff))

    @operation(
        "item_change",
        "Change the fields given",
        request=documents.ItemChange,
        answers={200: documents.Item},
        errors=(404, 413, 415),
    )
    def patch(self, request: Request, sku: str) -> Response:
        item = browsing.item_named(sku)
        changes = _fields(documents.ItemChange(data=request.data))
        catalogue.item_update(item=item, user=self.person, **changes)
        return Response(item_resource(browsing.item_named(sku, with_state=True), is_staff=True))

    @operation("item_delete", "Delete an item with its photos", answers={204: None}, errors=(404,))
    def delete(self, request: Request, sku: str) -> Response:  # noqa: ARG002
        catalogue.item_delete(item=browsing.item_named(sku), user=self.person)
        return Response(status=204)


class ItemImagesView(ItemView):
    """POST adds a photo. The other methods serve the item whose own SKU ends in `/images`."""

    parser_classes = (MultiPartParser, BoundedJSONParser)

    @operation(
        "item_image_add",
        "Add a photo to an item; the same file twice is one photo",
        request={"multipart/form-data": OpenApiRequest(documents.ImageInput)},
        answers={201: documents.Image},
        errors=(404, 413, 415, 422, 507),
    )
    def post(self, request: Request, sku: str) -> Response:
        item = browsing.item_named(sku)
        values = sent_values(request)
        data, filename = sent_file(values, "image")
        alt = str(values.get("alt", ""))
        image = catalogue.image_add(item=item, data=data, filename=filename, alt=alt, user=self.person)
        image = item.images.with_state().get(pk=image.pk)
        return Response(image_resource(image, is_staff=True), status=201)

    @extend_schema(exclude=True)
    def get(self, request: Request, sku: str) -> Response:
        return super().get(request, f"{sku}/images")

    @extend_schema(exclude=True)
    def patch(self, request: Request, sku: str) -> Response:
        return super().patch(request, f"{sku}/images")

    @extend_schema(exclude=True)
    def delete(self, request: Request, sku: str) -> Response:
        return super().delete(request, f"{sku}/images")


def _wanted(request: Request, *, is_staff: bool) -> browsing.Wanted:
    """Only staff may ask for a state: to others it would tell what is not ready yet."""
    values = sent_values(request)
    return browsing.Wanted(
        options=SearchOptions.parse(values),
        text=str(values.get("text", "")),
        state=str(values.get("state", "")) if is_staff else "",
    )


def _fields(sent: documents.Input) -> dict[str, Any]:
    """Checked input as the catalogue wants it; the category, given by slug or path, becomes its row."""
    sent.is_valid(raise_exception=True)
    fields = dict(sent.validated_data)
    if "category" in fields:
        fields["category"] = browsing.category_named(fields["category"])
    return fields
