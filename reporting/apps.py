from django.apps import AppConfig


class ReportingConfig(AppConfig):
    name = "reporting"

    def ready(self) -> None:
        """Hear what lower floors announce, and say how far the journal was read here."""
        from reporting import roll_ups, seeding  # noqa: F401 - the latter connects its receiver; both import models
        from safety.pruning import register_reader

        register_reader("roll-ups", roll_ups.lowest_unread)
