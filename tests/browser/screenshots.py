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

from playwright.sync_api import sync_playwright

from tests.browser.chromium import program
from tests.browser.pages import PAGES, SIZES, THEMES
from workflow.hosting.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = ROOT / "docs" / "screenshots"
KEPT = {("light", 1280), ("dark", 390)}  # of each page; of the first, which the README shows, every way to look
READY_SECONDS = 120.0
_VIOLATION = """
from django.utils import timezone
from safety.violations import report_violation
report_violation("helix", "session_storm", {"starts": 14, "seconds": 60}, now=timezone.now())
"""


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
    task_id = _tell_a_story(ours)
    password = json.loads((folder / "run.json").read_text())["admin_password"]
    TARGET.mkdir(parents=True, exist_ok=True)
    for picture in TARGET.glob("*.png"):
        picture.unlink()  # of pages that are no more
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        for theme in THEMES:
            for width, height in SIZES:
                context = browser.new_context(base_url=url, color_scheme=theme, viewport={"width": width, "height": height})
                page = context.new_page()
                for one in sorted(PAGES, key=lambda one: one.logged_in):
                    if (theme, width) not in KEPT and one.name not in ("login", "fleet"):
                        continue
                    page.goto(one.at(task_id))
                    if one.logged_in and page.locator("#id_login").count():
                        page.fill("#id_login", "admin")
                        page.fill("#id_password", password)
                        page.press("#id_password", "Enter")
                        page.wait_for_url(f"{url}{one.at(task_id)}")
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


def _tell_a_story(ours: dict[str, str]) -> str:
    """Give the fleet a history, and something that wants a person; give the id of a task to look at."""

    def manage(*words: str) -> bytes:
        command = [sys.executable, "manage.py", *words]
        return subprocess.run(command, cwd=ROOT, env=ours, stdout=subprocess.PIPE, check=True).stdout

    manage("shell", "-v", "0", "-c", _VIOLATION)  # incident 1
    manage("incident", "acknowledge", "1", "--reason", "Its wrapper restarts it; I look.")
    manage("seed_demo")
    manage("task", "create", "Write the release notes", "--assignee", "echo", "--executor", "agent", "--priority", "high")
    manage("task", "create", "Look at the streams", "--executor", "builtin", "--action", "analyze_streams")
    manage("task", "create", "Draft the letter to our customers", "--assignee", "torch", "--priority", "critical")
    manage("task", "create", "Compare the two suppliers", "--executor", "agent", "--assignee", "helix")
    manage("nova", "pause", "vaeris", "--reason", "Waits for the new guard rules.")
    manage("report", "--team", "demo", "--period", "7d", "--out", os.devnull)
    manage("nova", "halt", "synergy", "--reason", "It wrote to the wrong repository.")
    blocked = json.loads(manage("task", "list", "--status", "blocked", "--json"))
    done = json.loads(manage("task", "list", "--status", "completed", "--json"))
    return str((blocked or done)[0]["task_id"])


if __name__ == "__main__":
    main()
