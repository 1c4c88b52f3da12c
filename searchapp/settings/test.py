"""The test suite: a data folder of its own, fast passwords, everything else as in the embedded mode."""

import atexit
import os
import shutil
import tempfile

if "DATA_DIR" not in os.environ:
    os.environ["DATA_DIR"] = tempfile.mkdtemp(prefix="perennial-test-")
    atexit.register(shutil.rmtree, os.environ["DATA_DIR"], ignore_errors=True)

from searchapp.settings.base import *  # noqa: F403
from searchapp.settings.base import DATA_DIR, DATABASES

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, as in the product: the default in-memory database knows neither WAL nor waiting for a lock.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
FAILPOINTS = True

SECRET_KEY = "only-for-the-test-suite-" + "x" * 40
ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# No follower thread and no query-log thread: who searches first catches up, in the test's own transaction.
GALLERY_FOLLOW_SECONDS = 0
