"""The smallest site that has comments: SQLite, one app, no accounts."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("DJANGO_COMMENTS_DATA", HERE / "data"))

# Good for this example, which is served to this machine only.
SECRET_KEY = "django-comments-example"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = ["django.contrib.staticfiles", "comments"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
ROOT_URLCONF = "comments.urls"
WSGI_APPLICATION = None
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True

# Where jobs go, and where readers listen. The key is public, the secret is not.
FANFARE = {
    "url": os.environ.get("FANFARE_URL", "http://127.0.0.1:6001"),
    "app_id": "comments",
    "key": "comments-key",
    "secret": "comments-secret",
    "queue": "comments",
}
