"""The REST API. SKUs may hold slashes, so the photo route is tried before the item route."""

from django.urls import URLPattern, URLResolver, path

from searchapp.api.categories import CategoriesView, LearnView
from searchapp.api.docs import DocsView, SchemaView, unknown
from searchapp.api.feedback import FeedbackView
from searchapp.api.gallery import BackfillView, CorrectView
from searchapp.api.imports import ImportsView
from searchapp.api.items import ItemImagesView, ItemsView, ItemView
from searchapp.api.jobs import JobCancelView, JobRetryView, JobView
from searchapp.api.search import EncodeView, SearchView
from searchapp.api.verdicts import EvaluateView
from searchapp.api.version_import import ModelVersionImportView
from searchapp.api.versions import ModelVersionsView, PromoteView, RollbackView

app_name = "api"

urlpatterns: list[URLPattern | URLResolver] = [
    path("v1/search", SearchView.as_view(), name="search"),
    path("v1/encode", EncodeView.as_view(), name="encode"),
    path("v1/items", ItemsView.as_view(), name="items"),
    path("v1/items/<path:sku>/images", ItemImagesView.as_view(), name="item-images"),
    path("v1/items/<path:sku>", ItemView.as_view(), name="item"),
    path("v1/categories", CategoriesView.as_view(), name="categories"),
    path("v1/categories/learn", LearnView.as_view(), name="categories-learn"),
    path("v1/imports", ImportsView.as_view(), name="imports"),
    path("v1/jobs/<uuid:job_id>", JobView.as_view(), name="job"),
    path("v1/jobs/<uuid:job_id>/cancel", JobCancelView.as_view(), name="job-cancel"),
    path("v1/jobs/<uuid:job_id>/retry", JobRetryView.as_view(), name="job-retry"),
    path("v1/queries/<uuid:query_id>/feedback", FeedbackView.as_view(), name="feedback"),
    path("v1/model-versions", ModelVersionsView.as_view(), name="model-versions"),
    path("v1/model-versions/import", ModelVersionImportView.as_view(), name="model-version-import"),
    path("v1/model-versions/<str:version>/evaluate", EvaluateView.as_view(), name="model-version-evaluate"),
    path("v1/model-versions/<str:version>/promote", PromoteView.as_view(), name="model-version-promote"),
    path("v1/rollback", RollbackView.as_view(), name="rollback"),
    path("v1/gallery/correct", CorrectView.as_view(), name="gallery-correct"),
    path("v1/gallery/backfill", BackfillView.as_view(), name="gallery-backfill"),
    path("schema/", SchemaView.as_view(), name="schema"),
    path("docs/", DocsView.as_view(), name="docs"),
    path("<path:path>", unknown, name="unknown"),
    path("", unknown, name="unknown"),
]
