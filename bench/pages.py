"""How long pages take inside NOVAWF on a database that the filler has filled: view, queries and template, no network."""

import time
from typing import Any

TASK_PAGES = {
    "board": "/board/?view=columns",
    "board of a Nova": "/board/?view=columns&nova=bench-00007",
    "board of a team": "/board/?view=columns&team=team-7",
    "board by words that nothing has": "/board/?view=columns&q=zzz",
    "table": "/board/?view=table",
    "table of completed tasks, oldest first": "/board/?view=table&status=completed&order=oldest",
    "table by priority and executor": "/board/?view=table&priority=critical&executor=builtin",
    "task": "/tasks/BENCH-7/",
    "new task": "/tasks/new/",
    "waiting for you": "/waiting/",
}


def pages(repeats: str) -> dict[str, Any]:
    """Ask for each page so many times as a superuser; give the milliseconds of each answer."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client, override_settings

    plain = {**settings.STORAGES, "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    found: dict[str, list[float]] = {}
    with override_settings(ALLOWED_HOSTS=["*"], STORAGES=plain):
        client = Client()
        client.force_login(User.objects.get_or_create(username="bench", is_superuser=True)[0])
        for name, address in TASK_PAGES.items():
            found[name] = []
            for _ in range(int(repeats) + 1):
                begun = time.perf_counter()
                if client.get(address).status_code != 200:
                    raise SystemExit(f"{address} did not answer.")
                found[name].append((time.perf_counter() - begun) * 1000)
            del found[name][0]  # what is read and compiled for the first time
    return found
