"""WSGI entry point of the web processes."""

import ml.threads  # noqa: F401  isort: skip

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "searchapp.settings.dev")
application = get_wsgi_application()

if settings.GALLERY_FOLLOW_SECONDS > 0:
    # Load the gallery now: of several web processes the one that was asked last would answer 503 first.
    from searchapp.services.serving import start_follower  # the models must be ready before it is imported

    start_follower()
