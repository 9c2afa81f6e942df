"""When each person last took over: what changed since is what a handover tells."""

from django.db import models


class HandoverMark(models.Model):
    """How far one person has read. `person` is their name in the journal: `user:alice`."""

    person = models.CharField(max_length=128, primary_key=True)
    read_until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.person} until {self.read_until:%Y-%m-%d %H:%M}"
