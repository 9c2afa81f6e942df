"""What django-q2 runs for this storey. A call each; leases and claims decide who really works."""

from django.utils import timezone

from reporting import alert_sending, alerting

_clock = timezone.now  # noqa: TID251 - a job is a door


def look_after_alerts() -> None:
    """Evaluate the alert rules if that is due, and send what is due."""
    try:
        alerting.evaluate_if_due(now=_clock())
    finally:
        alert_sending.send_due(now=_clock(), clock=_clock)
