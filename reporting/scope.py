"""Whose figures: the fleet's, a team's or a Nova's."""

from dataclasses import dataclass

from workflow.models import Nova


class ScopeUnknown(Exception):
    """There is no such Nova or team."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The fleet (both empty), a team or a Nova."""

    nova_id: str = ""
    team: str = ""

    @property
    def kind(self) -> str:
        return "nova" if self.nova_id else "team" if self.team else "fleet"

    @property
    def name(self) -> str:
        return self.nova_id or self.team

    @property
    def key(self) -> str:
        """Name it as its rows do: `fleet`, `team:night`, `nova:torch`."""
        return f"{self.kind}:{self.name}" if self.name else "fleet"

    @classmethod
    def of(cls, key: str) -> "Scope":
        """Read the name of a scope.

        :raises ScopeUnknown: it is none.
        """
        kind, _, name = key.partition(":")
        if key == "fleet":
            return cls()
        if kind in ("nova", "team") and name:
            return cls(name) if kind == "nova" else cls("", name)
        raise ScopeUnknown(f"{key!r} is no scope; give fleet, team:NAME or nova:ID.")

    def demand_exists(self) -> None:
        """See that there is such a Nova or team.

        :raises ScopeUnknown: there is none.
        """
        if self.nova_id and not Nova.objects.filter(pk=self.nova_id).exists():
            raise ScopeUnknown(f"There is no Nova {self.nova_id}.")
        if self.team and not Nova.objects.filter(team=self.team).exists():
            raise ScopeUnknown(f"There is no team {self.team}.")
