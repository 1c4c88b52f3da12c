"""Every address of the product. `services/access.py` says who may call which; a route missing there fails a test."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("api/", include("searchapp.api.urls")),
    path("", include("searchapp.views.urls")),
]
