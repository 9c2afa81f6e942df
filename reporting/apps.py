from django.apps import AppConfig


class ReportingConfig(AppConfig):
    name = "reporting"

    def ready(self) -> None:
        """Hear what lower floors announce, and say how far the journal is read here."""
        from reporting import roll_ups, seeding  # noqa: F401 - seeding connects its receiver
        from safety import pruning

        pruning.register_reader("roll-ups", roll_ups.lowest_unread)
