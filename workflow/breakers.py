"""The one verb on a provider account's breaker: a person closes it. The API guardian does it, so that its counters agree."""

from datetime import datetime

from safety.api_guardian import ApiGuardian
from safety.models import ProviderAccount
from safety.stream_client import StreamClient, StreamError
from workflow.configuration import demand_reason
from workflow.errors import WorkflowError


class AccountNotFound(WorkflowError):
    """There is no provider account of that name."""


class CountersAway(WorkflowError):
    """The API guardian's counters can't be reached."""


def close_breaker(slug: str, *, reason: str, now: datetime) -> bool:
    """Let calls of an account pass again before its breaker would; False if it is closed.

    :raises AccountNotFound: there is none. :raises ReasonMissing: the reason is blank. :raises CountersAway: try again later.
    """
    reason = demand_reason(reason)
    if not ProviderAccount.objects.filter(slug=slug).exists():
        raise AccountNotFound(f"There is no provider account {slug}; nothing was changed.")
    client = StreamClient(name="novawf-breakers", timeout=1.0)
    try:
        return ApiGuardian(client).close_breaker(slug, reason=reason, now=now)
    except StreamError as error:
        raise CountersAway(
            f"The stream server can't be reached, so the breaker of {slug} was left as it was. Try again when it is back; till "
            "then no call is let through."
        ) from error
    finally:
        client.close()
