"""The test suite: a data folder of its own, fast passwords, everything else as in the embedded mode."""

import os
import tempfile

os.environ.setdefault("DATA_DIR", tempfile.mkdtemp(prefix="perennial-test-"))

from searchapp.settings.base import *  # noqa: E402, F403

SECRET_KEY = "only-for-the-test-suite-" + "x" * 40  # noqa: S105
ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# No follower thread and no query-log thread: who searches first catches up with the rows, in the test's own transaction.
GALLERY_FOLLOW_SECONDS = 0
