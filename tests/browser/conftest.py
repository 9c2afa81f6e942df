"""One server and one browser for all tests of pages in a real browser. Without a browser they are left out, but never in CI."""

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.utils import timezone

from tests import factories
from tests.browser.chromium import Chromium, program
from tests.web_server import WebServer

_LEFT_OUT = not program() and not os.environ.get("CI")
collect_ignore_glob = ["test_*.py"] if _LEFT_OUT else []


def pytest_report_header() -> list[str]:
    return ["tests/browser is left out: no Chromium is installed"] if _LEFT_OUT else []


@pytest.fixture(scope="session")
def _chromium() -> Iterator[Chromium]:
    browser = Chromium().start()
    yield browser
    browser.stop()


@pytest.fixture(scope="session")
def _page_server(django_db_setup: None, stream_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    server = WebServer(tmp_path_factory.mktemp("pages"), NOVAWF_DEBUG="1")  # static files from where they are
    yield server
    server.stop()


@pytest.fixture
def server(_page_server: WebServer, transactional_db: None, stream_url: str) -> WebServer:
    """A real server on the test's database, with the starting fleet."""
    if not _page_server.running:
        _page_server.start()
    for nova_id in factories.PERSONALITIES:
        factories.make_nova(nova_id, personality=nova_id, now=timezone.now())
    return _page_server


class Visit:
    """A browser window of somebody, and what went wrong in it."""

    def __init__(
        self, chromium: Chromium, server: WebServer, *, theme: str = "light", size: tuple[int, int] = (1280, 800)
    ) -> None:
        self.server = server
        self.context = chromium.browser.new_context(
            base_url=server.url, color_scheme=theme, viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce"
        )
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, line: Any) -> None:
        if line.type in ("error", "warning"):
            why = self.server.log()[-2_000:] if "code: 5" in line.text else ""  # what the server says of its own failure
            self.complaints.append(f"{line.text} {why}".strip())

    def log_in(self, user: User) -> None:
        """Give the window a session."""
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        session[SESSION_KEY], session[BACKEND_SESSION_KEY] = str(user.pk), "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        cookie = {"name": settings.SESSION_COOKIE_NAME, "value": session.session_key, "url": self.server.url}
        self.context.add_cookies([cookie])

    def wait_for_link(self, state: str) -> None:
        """Wait until the page says so of its live updates."""
        self.page.wait_for_selector(f'html[data-link="{state}"]', state="attached")


@pytest.fixture
def visit(_chromium: Chromium, server: WebServer) -> Iterator[Any]:
    """Open windows of an admin; they are closed afterwards, and nothing may have gone wrong in them."""
    opened: list[Visit] = []

    def open_one(user: User | None = None, **how: Any) -> Visit:
        window = Visit(_chromium, server, **how)
        opened.append(window)
        if user is not None:
            window.log_in(user)
        return window

    yield open_one
    for window in opened:
        window.context.close()


@pytest.fixture
def admin(transactional_db: None) -> User:
    """A superuser."""
    return User.objects.create_superuser("admin", password="password")
