"""Pages of items: shallow on purpose, so that the gallery cannot be copied page by page."""

from rest_framework.pagination import PageNumberPagination


class ItemPagination(PageNumberPagination):
    page_size = 24
    page_size_query_param = "page_size"
    max_page_size = 50
