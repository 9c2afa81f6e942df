"""`make screenshots`: photographs the pages of a demonstration fleet, started for that alone, into docs/screenshots/."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.browser.chromium import program
from tests.browser.pages import PAGES, SIZES, THEMES
from workflow.hosting.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = ROOT / "docs" / "screenshots"
READY_SECONDS = 120.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="novawf-screenshots-") as folder:
        ours = {
            **os.environ,
            "NOVAWF_VAR_DIR": folder,
            "PORT": str(free_port("127.0.0.1", 24_000 + secrets.randbelow(8_000))),
            "DRAGONFLY_PORT": str(free_port("127.0.0.1", 34_000 + secrets.randbelow(8_000))),
            "NOVAWF_LOG_LEVEL": "WARNING",
        }
        ours.pop("DATABASE_URL", None)
        ours.pop("DRAGONFLY_URL", None)
        stack = subprocess.Popen([sys.executable, "manage.py", "up"], cwd=ROOT, env=ours, stdout=subprocess.DEVNULL)
        try:
            _photograph(Path(folder), ours)
        finally:
            stack.terminate()
            stack.wait(30)


def _photograph(folder: Path, ours: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{ours['PORT']}"
    _wait_until_ready(url)
    _tell_a_story(ours)
    password = json.loads((folder / "run.json").read_text())["admin_password"]
    TARGET.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        for theme in THEMES:
            for width, height in SIZES:
                context = browser.new_context(base_url=url, color_scheme=theme, viewport={"width": width, "height": height})
                page = context.new_page()
                for one in sorted(PAGES, key=lambda one: one.logged_in):
                    page.goto(one.path)
                    if one.logged_in and page.locator("#id_login").count():
                        page.fill("#id_login", "admin")
                        page.fill("#id_password", password)
                        page.press("#id_password", "Enter")
                        page.wait_for_url(f"{url}{one.path}")
                    if one.follow:
                        page.click(f"{one.follow} >> nth=0")
                        page.wait_for_load_state()
                    page.wait_for_timeout(500)
                    page.screenshot(path=TARGET / f"{one.name}-{theme}-{width}.png")
                context.close()
        browser.close()
    print(f"{len(list(TARGET.glob('*.png')))} pictures in {TARGET.relative_to(ROOT)}")  # noqa: T201


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("The demonstration did not become ready.")


def _tell_a_story(ours: dict[str, str]) -> None:
    """Give the fleet a history, and something that wants a person."""
    manage: Any = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "manage.py", *words], cwd=ROOT, env=ours, stdout=subprocess.DEVNULL, check=True
    )
    manage("seed_demo")
    manage("task", "create", "Write the release notes", "--assignee", "echo", "--executor", "agent", "--priority", "high")
    manage("task", "create", "Look at the streams", "--executor", "builtin", "--action", "analyze_streams")
    manage("nova", "pause", "vaeris", "--reason", "Waits for the new guard rules.")
    manage("report", "--team", "demo", "--period", "7d", "--out", os.devnull)
    manage("nova", "halt", "synergy", "--reason", "It wrote to the wrong repository.")


if __name__ == "__main__":
    main()
