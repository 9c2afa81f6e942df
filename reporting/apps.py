from django.apps import AppConfig


class ReportingConfig(AppConfig):
    name = "reporting"

    def ready(self) -> None:
        """Hear what lower floors announce."""
        from reporting import seeding  # noqa: F401 - connects its receiver, and imports models
