"""Sends what alerts have to say: claims due deliveries, sends them side by side, notes how each went.

No transaction is open while anything is sent. A delivery is claimed by moving its due time, so two that send at once never
send the same; a crash between sending and noting sends again, with the same message id. apprise is loaded by the first
message that needs it: it is large.
"""

import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx2
import orjson
import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F

from reporting.core import alerting
from reporting.core.alerting import Tier
from reporting.models import AlertChannel, AlertDelivery
from reporting.models.alert import PUBLIC_SCHEMES
from safety import audit
from safety.audit import Entry
from safety.encryption import SecretUnreadable, decrypt
from workflow.execution.http import is_public, sign

UNDELIVERED = "reporting.alert.undelivered"
CHANNEL_CLOSED = "reporting.alert_channel.closed"
BATCH = 16  # messages at once: all of them within the deadline
DEADLINE = 9.0  # seconds for a batch: the worker that sends has probes to answer
CLAIMED_FOR = timedelta(seconds=60)  # then whoever claimed it is taken for dead
LOG_LENGTH = 20
ANSWER_LIMIT = 64 * 1024  # bytes of an answer that are read
BODY_LIMIT = 20_000  # bytes of a message: receivers of Standard Webhooks expect thin ones
_NO_ANSWER = "no answer in time"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message ready to be sent, with all that sending needs: what sends it asks no database."""

    delivery_id: int
    kind: str
    tier: str
    title: str
    body: str
    data: dict[str, Any]
    message_id: str
    channel_kind: str
    address: str  # a webhook's url, or apprise's address
    secrets: tuple[str, ...]  # of a webhook: the newest first
    timeout: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went. `gone`: the receiver says that it will never take anything again."""

    ok: bool
    detail: str
    seconds: float = 0.0
    gone: bool = False


class NotSent(Exception):
    """Something stood in the way before anything was sent; its text says what."""


def send_due(*, now: datetime, clock: Callable[[], datetime]) -> int:
    """Send what is due, a batch at most; give how many messages were tried."""
    due = AlertDelivery.objects.filter(status=AlertDelivery.Status.WAITING, due_at__lte=now).order_by("due_at", "id")
    claimed = [pk for pk in due.values_list("pk", flat=True)[:BATCH] if _claim(pk, now)]
    if claimed:
        send(claimed, now=now, clock=clock)
    return len(claimed)


def is_due(*, now: datetime) -> bool:
    """Tell whether anything is to be sent."""
    return AlertDelivery.objects.filter(status=AlertDelivery.Status.WAITING, due_at__lte=now).exists()


def send(delivery_ids: Sequence[int], *, now: datetime, clock: Callable[[], datetime]) -> None:
    """Send claimed deliveries side by side, and note how each went."""
    rows = AlertDelivery.objects.select_related("channel", "event").filter(pk__in=delivery_ids)
    letters, outcomes = [], {}
    for row in rows:
        try:
            letters.append(_letter(row, now))
        except NotSent as refusal:
            outcomes[row.pk] = Outcome(False, str(refusal))
    outcomes |= _send_all(letters, clock)
    for row in rows:
        note(row.pk, outcomes.get(row.pk, Outcome(False, _NO_ANSWER, DEADLINE)), now=clock())


def claim_now(delivery_id: int, *, now: datetime) -> bool:
    """Claim a waiting delivery even before it is due; False if somebody has it, or it has ended."""
    waiting = AlertDelivery.objects.filter(pk=delivery_id, status=AlertDelivery.Status.WAITING)
    return bool(waiting.update(due_at=now + CLAIMED_FOR, attempts=F("attempts") + 1))


def _claim(delivery_id: int, now: datetime) -> bool:
    waiting = AlertDelivery.objects.filter(pk=delivery_id, status=AlertDelivery.Status.WAITING, due_at__lte=now)
    return bool(waiting.update(due_at=now + CLAIMED_FOR, attempts=F("attempts") + 1))


def _letter(row: AlertDelivery, now: datetime) -> Letter:
    """Read what sending needs.

    :raises NotSent: the channel is closed, or its secrets can't be read.
    """
    channel = row.channel
    if not channel.is_open and row.kind != "test":
        raise NotSent("The channel is closed.")
    try:
        if channel.kind == AlertChannel.Kind.WEBHOOK:
            address, secrets = channel.url, [decrypt(channel.encrypted_secret)]
            if channel.encrypted_former and channel.former_until and now < channel.former_until:
                secrets.append(decrypt(channel.encrypted_former))
        else:
            address, secrets = decrypt(channel.encrypted_address), []
    except SecretUnreadable as error:
        raise NotSent(str(error)) from None
    tier = row.event.tier if row.event else Tier.INFO.value
    return Letter(
        row.pk, row.kind, tier, row.title, row.body, row.data, row.message_id, channel.kind, address, tuple(secrets),
        channel.timeout,
    )  # fmt: skip


def _send_all(letters: Sequence[Letter], clock: Callable[[], datetime]) -> dict[int, Outcome]:
    """Send letters, each in a thread that nobody waits for longer than the deadline."""
    done: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
    for letter in letters:
        threading.Thread(target=lambda one=letter: done.put((one.delivery_id, attempt(one, clock))), daemon=True).start()
    outcomes: dict[int, Outcome] = {}
    ends_at = time.monotonic() + DEADLINE
    while len(outcomes) < len(letters):
        try:
            delivery_id, outcome = done.get(timeout=max(ends_at - time.monotonic(), 0.001))
        except queue.Empty:
            break
        outcomes[delivery_id] = outcome
    return outcomes


def attempt(letter: Letter, clock: Callable[[], datetime]) -> Outcome:
    """Send one letter; never raises."""
    begun = time.monotonic()
    try:
        post = post_webhook if letter.channel_kind == AlertChannel.Kind.WEBHOOK else post_service
        ok, detail, gone = post(letter, clock())
    except NotSent as refusal:
        ok, detail, gone = False, str(refusal), False
    except Exception as error:  # the wall around one message: a library of 170 services may raise anything
        log.warning("alert.not_sent", delivery=letter.delivery_id, error=type(error).__name__)
        ok, detail, gone = False, f"It could not be sent ({type(error).__name__}).", False
    return Outcome(ok, detail, round(time.monotonic() - begun, 3), gone)


# -- webhooks


def post_webhook(letter: Letter, now: datetime) -> tuple[bool, str, bool]:
    """Post a letter, signed after Standard Webhooks, to the address that was judged; redirects are not followed."""
    url, ends_at = httpx2.URL(letter.address), time.monotonic() + letter.timeout
    port = url.port or (443 if url.scheme == "https" else 80)
    if url.scheme != "https" and not settings.ALLOW_PRIVATE_WEBHOOKS:
        raise NotSent("The address is not https://. Nothing was sent.")
    address = allowed_address(url.host, port)
    body = webhook_body(letter, now)
    signed = [sign(secret, letter.message_id, now, body) for secret in letter.secrets]
    headers = {
        "host": url.netloc.decode(),
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "NOVAWF",
        **signed[0],
        "webhook-signature": " ".join(one["webhook-signature"] for one in signed),
    }
    extensions = {"sni_hostname": url.host} if url.scheme == "https" else {}
    try:
        # to the address that was judged: another look-up might give another one
        with (
            httpx2.Client(trust_env=False, follow_redirects=False, timeout=letter.timeout) as client,
            client.stream(
                "POST", url.copy_with(host=address), content=body, headers=headers, extensions=extensions
            ) as response,
        ):
            read = 0
            for chunk in response.iter_raw():
                read += len(chunk)
                if read > ANSWER_LIMIT or time.monotonic() > ends_at:
                    break  # what it has to say beyond its status is not needed
            status = response.status_code
    except httpx2.HTTPError as error:
        return False, f"It can't be reached ({type(error).__name__}).", False
    return 200 <= status < 300, f"answered {status}", status == 410


def webhook_body(letter: Letter, now: datetime) -> bytes:
    """Give the body: type, timestamp, data; thin."""
    kind = "alert.test" if letter.kind == "test" else f"alert.{letter.kind}"
    message = {"type": kind, "timestamp": now.isoformat(), "data": {**letter.data, "text": letter.title}}
    body = orjson.dumps(message)
    if len(body) > BODY_LIMIT:
        body = orjson.dumps({**message, "data": {**message["data"], "subjects": []}})  # type: ignore[dict-item]
    return body


def allowed_address(host: str, port: int) -> str:
    """Resolve a host, and give the address to connect to.

    :raises NotSent: it can't be found, or lies in a private network and that is not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotSent("Its host can't be found. Nothing was sent.") from None
    addresses = [str(one[4][0]) for one in found]
    if not settings.ALLOW_PRIVATE_WEBHOOKS and not all(is_public(address) for address in addresses):
        raise NotSent("Its host lies in a private network, and NOVAWF_ALLOW_PRIVATE_WEBHOOKS is off. Nothing was sent.")
    return addresses[0]


# -- services


def post_service(letter: Letter, now: datetime) -> tuple[bool, str, bool]:
    """Send a letter by apprise."""
    import apprise  # noqa: PLC0415 - 45 MB that most processes never need

    scheme = letter.address.partition("://")[0].lower()
    asset = apprise.AppriseAsset(app_id="NOVAWF", app_desc="NOVAWF", app_url="", async_mode=False, http_redirects=False)
    service = apprise.Apprise.instantiate(letter.address, asset=asset, suppress_exceptions=True)
    if service is None:
        raise NotSent(f"apprise can't read this address of {scheme}. Nothing was sent; enter it anew.")
    service.socket_connect_timeout = service.socket_read_timeout = letter.timeout
    service.redirects = False
    if scheme not in PUBLIC_SCHEMES:
        for host in {getattr(service, "smtp_host", "") or _host_of(service)}:
            allowed_address(host, int(getattr(service, "port", 0) or 443))
    kinds = {Tier.CRITICAL: "failure", Tier.WARNING: "warning"}
    kind = {"resolved": "success", "test": "info"}.get(letter.kind) or kinds.get(Tier(letter.tier), "info")
    sent = bool(service.notify(title=letter.title, body=letter.body or letter.title, notify_type=kind))
    return sent, "sent" if sent else f"{scheme} refused it, or can't be reached.", False


def _host_of(service: Any) -> str:
    """Give the host that a service would connect to; ntfy without one uses its public place."""
    if getattr(service, "mode", "") == "cloud":
        return "ntfy.sh"
    return str(getattr(service, "host", "") or "")


# -- what became of it


def note(delivery_id: int, outcome: Outcome, *, now: datetime) -> None:
    """Write how an attempt went: sent, to be tried again, or given up; a channel that only fails is closed."""
    with transaction.atomic():
        row = AlertDelivery.objects.select_for_update().get(pk=delivery_id)
        if row.status != AlertDelivery.Status.WAITING:
            return
        channel = AlertChannel.objects.select_for_update().get(pk=row.channel_id)
        attempt_told = {"at": now.isoformat(), "ok": outcome.ok, "detail": outcome.detail, "seconds": outcome.seconds}
        row.log = [*row.log, attempt_told][-LOG_LENGTH:]
        entries = _judge_channel(channel, outcome, now)
        closed = not channel.is_open
        if outcome.ok:
            row.status, row.ended_at = AlertDelivery.Status.SENT, now
        elif row.kind == "test" or closed or now - row.created_at >= alerting.GIVE_UP_AFTER:
            row.status, row.ended_at = AlertDelivery.Status.FAILED, now
            after = {"channel": channel.slug, "kind": row.kind, "attempts": row.attempts, "detail": outcome.detail}
            entries.append(
                Entry(UNDELIVERED, object_type="alert_delivery", object_id=str(row.pk), after=after, reason=outcome.detail)
            )
        else:
            row.due_at = now + alerting.retry_after(row.attempts, random.random())  # noqa: S311 - jitter
        row.save(update_fields=["log", "status", "ended_at", "due_at"])
        audit.record(entries, now=now)


def _judge_channel(channel: AlertChannel, outcome: Outcome, now: datetime) -> list[Entry]:
    """Note on the channel whether things come through; close it where they never will."""
    if outcome.ok:
        channel.delivered_at, channel.failing_since = now, None
        channel.save(update_fields=["delivered_at", "failing_since"])
        return []
    if not channel.is_open:
        return []
    channel.failing_since = channel.failing_since or now
    reason = ""
    if outcome.gone:
        reason = "Its host says that it is gone (410)."
    elif now - channel.failing_since >= alerting.GIVE_UP_AFTER:
        reason = "Nothing has come through for five days."
    if reason:
        channel.closed_at, channel.closed_reason = now, reason
    channel.save(update_fields=["failing_since", "closed_at", "closed_reason"])
    if not reason:
        return []
    return [Entry(CHANNEL_CLOSED, object_type="alert_channel", object_id=channel.slug, after={"closed_at": now}, reason=reason)]
