"""The embedded mode on one machine: SQLite, files, workers started beside the web process by `manage.py serve`."""

from searchapp.settings.base import *  # noqa: F403
from searchapp.settings.base import ALLOWED_HOSTS, DATA_DIR
from searchapp.settings.environment import read_or_create_secret, read_str

SECRET_KEY = read_str("SECRET_KEY") or read_or_create_secret(DATA_DIR / "secret_key")
FAILPOINTS = True  # needs PERENNIAL_FAILPOINT as well; production settings never have it
ALLOWED_HOSTS = ALLOWED_HOSTS or ["localhost", "127.0.0.1", "[::1]", ".local", "testserver"]
