"""Make what every installation begins with; safe to run any number of times."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from safety import audit
from workflow import seeding


class Command(BaseCommand):
    help = "Make the policies, the five personalities and the starting fleet where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()  # noqa: TID251 - a door
        with audit.acting("cli:seed"):
            made = seeding.seed_all(now=now)
        self.stdout.write("\n".join(f"made {name}" for name in made) or "nothing was missing")
