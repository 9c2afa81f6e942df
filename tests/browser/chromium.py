"""A Chromium in a thread of its own: Playwright keeps an event loop running there, which no other test must meet."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from playwright.sync_api import sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> str:
    """Give the path of a browser; empty if there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), "")


class Far:
    """An object of Playwright's, used from another thread: what is called or read here happens there."""

    def __init__(self, thing: Any, thread: ThreadPoolExecutor) -> None:
        self.__dict__.update(thing=thing, thread=thread)

    def __getattr__(self, name: str) -> Any:
        return self._here(self.thread.submit(getattr, self.thing, name).result())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._here(self.thread.submit(self.thing, *args, **kwargs).result())

    def there(self, call: Any) -> Any:
        """Make a call with the object itself, in its thread."""
        return self.thread.submit(call, self.thing).result()

    def _here(self, found: Any) -> Any:
        ours = callable(found) or type(found).__module__.startswith("playwright")
        return Far(found, self.thread) if ours else found


class Chromium:
    """One browser."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="browser")
        self._playwright: Any = None
        self.browser: Far

    def start(self) -> "Chromium":
        def begin() -> Any:
            self._playwright = sync_playwright().start()
            return self._playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])

        self.browser = Far(self._thread.submit(begin).result(), self._thread)
        return self

    def stop(self) -> None:
        self.browser.close()
        self._thread.submit(self._playwright.stop).result()
        self._thread.shutdown()
