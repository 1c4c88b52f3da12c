"""The pages. Who may call which is in `searchapp.access`, section PAGES."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import URLPattern, URLResolver, path

from searchapp.views import (
    browse,
    duplicates,
    explain,
    feedback,
    items,
    jobs,
    media,
    models,
    search,
    training,
    verdicts,
    version_import,
)

urlpatterns: list[URLPattern | URLResolver] = [
    path("", search.start, name="start"),
    path("search", search.search_by_photo, name="search"),
    path("search/explain", explain.explain, name="explain"),
    path("feedback", feedback.feedback, name="feedback"),
    path("browse", browse.browse, name="browse"),
    path("items/", items.item_by_sku, name="item-by-sku"),
    path("items/<path:sku>", items.item, name="item"),
    path("jobs/", jobs.job_list, name="jobs"),
    path("jobs/duplicates", duplicates.duplicate_list, name="duplicates"),
    path("jobs/duplicates/<int:pair_id>/keep", duplicates.duplicate_keep, name="duplicate-keep"),
    path("jobs/duplicates/<int:pair_id>/remove", duplicates.duplicate_remove, name="duplicate-remove"),
    path("jobs/<uuid:job_id>/", jobs.job_report, name="job"),
    path("jobs/<uuid:job_id>/errors.csv", jobs.job_errors, name="job-errors"),
    path("jobs/<uuid:job_id>/cancel", jobs.job_cancel, name="job-cancel"),
    path("jobs/<uuid:job_id>/retry", jobs.job_retry, name="job-retry"),
    path("ops/", models.model_list, name="models"),
    path("ops/look", models.drift_look, name="drift-look"),
    path("ops/versions/import", version_import.version_import, name="version-import"),
    path("ops/versions/<str:version>/verdict", verdicts.verdict, name="model-verdict"),
    path("ops/versions/<str:version>/measure", verdicts.measure, name="model-measure"),
    path("ops/versions/<str:version>/flips", verdicts.flip_decide, name="flip-decide"),
    path("ops/versions/<str:version>/promote", models.model_promote, name="model-promote"),
    path("ops/rollback", models.model_rollback, name="model-rollback"),
    path("ops/train", training.train, name="train"),
    path("ops/train/<uuid:job_id>/", training.training, name="training"),
    path("ops/train/<uuid:job_id>/cancel", training.training_cancel, name="training-cancel"),
    path("ops/train/<uuid:job_id>/retry", training.training_retry, name="training-retry"),
    path("media/<path:name>", media.media, name="media"),
    path(
        "login/",
        LoginView.as_view(template_name="login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
]
