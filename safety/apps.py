from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SafetyConfig(AppConfig):
    name = "safety"

    def ready(self) -> None:
        """Register the system checks, and put the journal's triggers back after every migrate, whichever app it was for."""
        from safety import checks, triggers

        checks.register_all()
        post_migrate.connect(triggers.install_after_migrate, sender=self, dispatch_uid="safety.triggers")
