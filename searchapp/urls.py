"""Every address of the product. `access.py` says who may call which; a route missing there fails a test."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("api/", include("searchapp.api.urls")),
    path("", include("searchapp.api.health_urls")),
    path("", include("searchapp.views.urls")),
]

handler400 = "searchapp.error_pages.bad_request"
handler403 = "searchapp.error_pages.not_allowed"
handler404 = "searchapp.error_pages.not_found"
handler500 = "searchapp.error_pages.server_error"
