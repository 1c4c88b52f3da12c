"""Production: PostgreSQL and Redis by environment, TLS in front, refuses to start half configured."""

from searchapp.settings.base import *  # noqa: F403
from searchapp.settings.base import ALLOWED_HOSTS, require
from searchapp.settings.environment import env

SECRET_KEY = require("SECRET_KEY", env.str("SECRET_KEY", default=""))
if len(SECRET_KEY) < 50 or SECRET_KEY.startswith("change-me"):
    require("SECRET_KEY (50 characters or more, not the sample)", "")
require("ALLOWED_HOSTS", ",".join(ALLOWED_HOSTS))
require("DATABASE_URL", env.str("DATABASE_URL", default=""))
require("CELERY_BROKER_URL", env.str("CELERY_BROKER_URL", default=""))
require("CACHE_URL", env.str("CACHE_URL", default=""))

SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = 365 * 24 * 3600
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_HSTS_PRELOAD = True
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
