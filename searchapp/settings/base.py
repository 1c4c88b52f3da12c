"""Settings common to every mode. Embedded and production differ by environment variables alone."""

import ml.threads  # noqa: F401  isort: skip  must come before anything that loads numpy

from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from searchapp.settings.admin import UNFOLD  # noqa: F401  read by the admin theme
from searchapp.settings.environment import env, read_choice, read_int, read_list, read_rate, read_str

BASE_DIR = Path(__file__).resolve().parent.parent.parent
DATA_DIR = Path(read_str("DATA_DIR", default=str(BASE_DIR / "var"))).resolve()
DEFAULT_BUNDLE = BASE_DIR / "ml" / "weights" / "default"
# Candidates of this architecture go on from its weights.
BUDGET_BUNDLE = BASE_DIR / "ml" / "weights" / "budget"
SAMPLE_DATA = Path(read_str("SAMPLE_DATA", default=str(BASE_DIR.parent / "shared" / "data")))

DEBUG = False
ALLOWED_HOSTS: list[str] = read_list("ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS: list[str] = read_list("CSRF_TRUSTED_ORIGINS")
ROOT_URLCONF = "searchapp.urls"
WSGI_APPLICATION = "searchapp.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
APPEND_SLASH = True
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.import_export",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "import_export",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "axes",
    "csp",
    "searchapp",
]

MIDDLEWARE = [
    "searchapp.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "searchapp.admin_policy.AdminPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "searchapp.visitor.VisitorMiddleware",
    "searchapp.enforcement.AccessMiddleware",
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "searchapp.views.navigation.navigation",
            ]
        },
    }
]

# --- database -----------------------------------------------------------------------------------------------
DATABASES: dict[str, dict[str, Any]] = {
    "default": env.db_url_config(
        read_str("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'perennial.sqlite3'}")
    )
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # BEGIN IMMEDIATE: with deferred transactions 494 of 600 concurrent read-then-write runs ended "locked".
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA busy_timeout=20000;",
    }
else:
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 5}  # a database that is away ends in a 503, soon
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"]["CONN_MAX_AGE"] = None

CACHES: dict[str, dict[str, Any]] = {
    "default": env.cache_url_config(read_str("CACHE_URL", default=f"filecache://{DATA_DIR / 'cache'}"))
}
if CACHES["default"]["BACKEND"].endswith("FileBasedCache"):
    # Throttles count in it from several processes; a counter lives for a day after its last increment.
    CACHES["default"] |= {
        "BACKEND": "searchapp.file_cache.SharedFileCache",
        "TIMEOUT": 24 * 3600,
        "OPTIONS": {"MAX_ENTRIES": 50_000},
    }
elif CACHES["default"]["BACKEND"].endswith("RedisCache"):
    CACHES["default"]["OPTIONS"] = {"socket_timeout": 1, "socket_connect_timeout": 1}

# --- background work ----------------------------------------------------------------------------------------
BROKER_DIR = DATA_DIR / "broker"
CELERY_BROKER_URL = read_str("CELERY_BROKER_URL", default="filesystem://")
if CELERY_BROKER_URL == "filesystem://":
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
        "data_folder_in": str(BROKER_DIR / "messages"),
        "data_folder_out": str(BROKER_DIR / "messages"),
        "control_folder": str(BROKER_DIR / "control"),
        "store_processed": False,
        "polling_interval": 0.25,  # seconds; the default of one would be half of a small job's time
    }
else:
    # A job outlives this only by its own lease in the database, never by a redelivery (reliability.md m2).
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "visibility_timeout": 24 * 3600,
        "socket_timeout": 5,  # a frozen broker must not freeze the relay
        "socket_connect_timeout": 5,
    }
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # nobody calls it; jobs are cancelled through their rows

JOB_LEASE_SECONDS = read_int("JOB_LEASE_SECONDS", default=20, low=2, high=3600)
JOB_MAX_ATTEMPTS = read_int("JOB_MAX_ATTEMPTS", default=3, low=1, high=100)
SWEEP_SECONDS = read_int("SWEEP_SECONDS", default=5, low=1, high=60)

# Categories added within so many seconds are learned in one increment.
LEARN_WINDOW_SECONDS = 3

# --- alerts: to whom they go is an operator's setting -------------------------------------------------------
_EMAIL: dict[str, Any] = env.email_url_config(read_str("EMAIL_URL", default="consolemail://"))
EMAIL_BACKEND = _EMAIL["EMAIL_BACKEND"]
EMAIL_HOST, EMAIL_PORT = _EMAIL["EMAIL_HOST"] or "localhost", _EMAIL["EMAIL_PORT"] or 25
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _EMAIL["EMAIL_HOST_USER"] or "", _EMAIL["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS, EMAIL_USE_SSL = _EMAIL.get("EMAIL_USE_TLS", False), _EMAIL.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = read_str("EMAIL_FROM", default="perennial@localhost")

# --- files --------------------------------------------------------------------------------------------------
MEDIA_URL = "/media/"
MEDIA_ROOT = DATA_DIR / "media"
MODEL_DIR = DATA_DIR / "models"
SNAPSHOT_DIR = DATA_DIR / "snapshots"
IMPORT_DIR = DATA_DIR / "imports"
TRAINING_DIR = DATA_DIR / "training"  # plans and checkpoints of unfinished trainings
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# --- intake and search limits -------------------------------------------------------------------------------
IMAGE_MAX_BYTES = 20 * 1024 * 1024
IMAGE_MAX_PIXELS = 25_000_000
IMAGE_STORED_SIDE = 1600
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024  # form fields and JSON; files are limited by the upload handler
DATA_UPLOAD_MAX_NUMBER_FIELDS = 500
DATA_UPLOAD_MAX_NUMBER_FILES = 200
FILE_UPLOAD_MAX_MEMORY_SIZE = IMAGE_MAX_BYTES + 1024 * 1024  # a photo never touches the disk on its way in
FILE_UPLOAD_HANDLERS = [
    "searchapp.uploads.LimitedMemoryUploadHandler",
    "searchapp.uploads.LimitedTemporaryUploadHandler",
]
IMPORT_MAX_BYTES = 1024 * 1024 * 1024
GALLERY_INDEX = read_choice("GALLERY_INDEX", default="faiss", allowed=("faiss", "milvus"))
# Not MILVUS_URI: pymilvus reads that one itself, and refuses the path of an embedded file.
MILVUS_URI = read_str("GALLERY_MILVUS_URI")
GALLERY_FOLLOW_SECONDS = 0.5

ANON_SEARCH_RATE = read_rate("ANON_SEARCH_RATE")
# Distinct items an address may see in a day; 0: no limit.
ANON_ITEM_BUDGET = read_int("ANON_ITEM_BUDGET", default=0, low=0, high=10**9)
TRUSTED_PROXIES = read_int("TRUSTED_PROXIES", default=0, low=0, high=5)
QUERY_IMAGE_RETENTION_DAYS = 30

# --- access -------------------------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 14 * 24 * 3600
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = ["username"]
AXES_IPWARE_PROXY_COUNT = TRUSTED_PROXIES
AXES_VERBOSE = False
AXES_LOCKOUT_TEMPLATE = "lockout.html"
# By user name alone, on purpose: rotating addresses or forwarding headers buys no more guesses.
SILENCED_SYSTEM_CHECKS = ["axes.W006"]

# The admin's CSV import and export ask for the same rights as its forms; without this every staff account may.
IMPORT_EXPORT_IMPORT_PERMISSION_CODE = "change"
IMPORT_EXPORT_EXPORT_PERMISSION_CODE = "view"
IMPORT_EXPORT_ESCAPE_FORMULAE_ON_EXPORT = True

CONTENT_SECURITY_POLICY = {
    "EXCLUDE_URL_PREFIXES": ("/admin/",),  # unfold needs inline script; searchapp.admin_policy has its own
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "blob:", "data:"],
        "style-src": [SELF],
        "script-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [SELF],
        "object-src": [NONE],
    },
}

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "searchapp.api.authentication.ApiKeyAuthentication",
        "searchapp.api.authentication.CsrfSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["searchapp.api.permissions.DenyUnlessListed"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "searchapp.api.parsers.BoundedJSONParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "searchapp.api.errors.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Perennial",
    "DESCRIPTION": "Visual search whose gallery is never thrown away.",
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "JobState": "searchapp.models.JobState",
        "SearchState": "searchapp.models.SearchState",
        "Vertical": "searchapp.models.Vertical",
    },
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "searchapp.log.json_formatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {
        "handlers": ["stderr"],
        "level": read_choice("LOG_LEVEL", default="INFO", allowed=("DEBUG", "INFO", "WARNING", "ERROR")),
    },
    "loggers": {
        "django.request": {"level": "ERROR"},
        "axes": {"level": "WARNING"},
        "faiss.loader": {"level": "WARNING"},
        "onnx_ir": {"level": "WARNING"},  # tells of every constant it folds
        "kombu.connection": {"level": "ERROR"},  # it warns that filesystem:// names no host
    },
}


def require(name: str, value: str) -> str:
    if not value:
        raise ImproperlyConfigured(f"{name} is empty; set it in the environment (see .env.example)")
    return value
