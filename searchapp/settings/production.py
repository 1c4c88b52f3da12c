"""Production: PostgreSQL and Redis by environment, TLS in front, refuses to start half configured."""

from searchapp.settings.base import *  # noqa: F403
from searchapp.settings.base import ALLOWED_HOSTS, require
from searchapp.settings.environment import read_bool, read_str

SECRET_KEY = require("SECRET_KEY", read_str("SECRET_KEY"))
if len(SECRET_KEY) < 50 or SECRET_KEY.startswith("change-me"):
    require("SECRET_KEY (50 characters or more, not the sample)", "")
require("ALLOWED_HOSTS", ",".join(ALLOWED_HOSTS))
require("DATABASE_URL", read_str("DATABASE_URL"))
require("CELERY_BROKER_URL", read_str("CELERY_BROKER_URL"))
require("CACHE_URL", read_str("CACHE_URL"))

SECURE_SSL_REDIRECT = read_bool("SECURE_SSL_REDIRECT", default=True)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# Probes and scrapers come from inside, over plain HTTP.
SECURE_REDIRECT_EXEMPT = [r"^healthz/", r"^metrics$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_HSTS_PRELOAD = True
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
