"""The application as a test's web server runs it: impatient where a test would have to wait."""

from novawf_site.asgi import application  # noqa: F401 - for uvicorn; sets Django up
from reporting import consumers
from workflow.api import events, feed

consumers.BEAT_SECONDS = 0.5
events.HEARTBEAT_SECONDS = 0.5
events.LINES_OF_CALLER = 4
feed.GAP_SECONDS = 3.0
