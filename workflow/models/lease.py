"""Named, expiring leases: who reads the streams, who relays, which slot is driven by whom."""

from django.db import models


class Lease(models.Model):
    """A lease by name. `fence` rises with every acquisition and never falls, so a late holder's writes can be refused."""

    name = models.CharField(max_length=64, primary_key=True)
    holder = models.CharField(max_length=64, blank=True)
    fence = models.BigIntegerField(default=0)
    expires_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    note = models.JSONField(default=dict)  # what the holder last reported of itself

    def __str__(self) -> str:
        return f"{self.name} {self.holder}"
