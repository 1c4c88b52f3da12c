"""WSGI entry point of the web processes."""

import ml.threads  # noqa: F401  isort: skip

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "searchapp.settings.dev")
application = get_wsgi_application()
