"""The project's settings for a test's web server: pages name their static files, though nobody has collected them."""

from novawf_site.settings import *  # noqa: F403
from novawf_site.settings import STORAGES

STORAGES = STORAGES | {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
