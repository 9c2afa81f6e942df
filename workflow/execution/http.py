"""The http executor: posts a task to a configured address outside, signed (Standard Webhooks), and takes the answer as result.

The address is resolved here once, judged, and connected to as judged, so that no name can lead into the private network.
Redirects are not followed. Which addresses there are is in the database.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx2
import orjson
from django.utils import timezone

from safety.encryption import SecretUnreadable, decrypt
from workflow.execution.model_calls import retry_after
from workflow.execution.registry import ExecutionContext, ExecutionFailed, Result
from workflow.execution.threads import in_thread
from workflow.models import HttpEndpoint
from workflow.models.endpoint import SECRET_PREFIX

_SHOWN = 300  # characters of an answer that is no result
_clock = timezone.now  # noqa: TID251 - a signature says when it was made


class Http:
    """Posts tasks to endpoints."""

    name = "http"
    actions: frozenset[str] = frozenset()  # rows, so that a new one works at once

    async def run(self, context: ExecutionContext) -> Result:
        """Post a task and read the answer.

        :raises ExecutionFailed: the endpoint is unknown or may not be reached, or did not do the work.
        """
        endpoint, secret = await in_thread(_endpoint, context.action)
        try:
            async with asyncio.timeout(endpoint.timeout):
                return await _post(context, endpoint, secret)
        except TimeoutError:
            raise ExecutionFailed(f"Endpoint {endpoint.slug} did not answer within {endpoint.timeout:g} s.") from None


def sign(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Give the headers of Standard Webhooks; receivers refuse what is signed otherwise, or too long ago."""
    stamp = str(int(at.timestamp()))
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


async def resolve(host: str, port: int) -> list[str]:
    """Give the addresses of a host, in the order in which they should be tried."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


def is_public(address: str) -> bool:
    """Tell whether an address lies in the public internet, whatever other address it is wrapped in."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


async def _allowed_address(endpoint: HttpEndpoint, url: httpx2.URL) -> str:
    """Resolve an endpoint's host, and give the address to connect to.

    :raises ExecutionFailed: it can't be found, or any of its addresses is not allowed.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        addresses = await resolve(url.host, port)
    except (OSError, UnicodeError):
        addresses = []
    if not addresses:
        raise ExecutionFailed(f"The host of endpoint {endpoint.slug} can't be found. Nothing was sent.")
    if not endpoint.allow_private and not all(is_public(address) for address in addresses):
        needs = {"owner": "operator", "action": f"give endpoint {endpoint.slug} a public address, or allow private ones"}
        text = f"The host of endpoint {endpoint.slug} lies in a private network, which is not allowed. Nothing was sent."
        raise ExecutionFailed(text, retryable=False, needs=needs)
    return addresses[0]


async def _post(context: ExecutionContext, endpoint: HttpEndpoint, secret: str) -> Result:
    url, now = httpx2.URL(endpoint.url), _clock()
    address = await _allowed_address(endpoint, url)
    body = orjson.dumps(_message(context, now))
    message_id = f"exec_{context.execution_id}_{context.attempt}"  # the same however often one attempt is sent
    headers = {
        "host": url.netloc.decode(),
        "content-type": "application/json",
        "accept": "application/json, text/plain",
        "accept-encoding": "identity",
        "user-agent": "NOVAWF",
        **sign(secret, message_id, now, body),
    }
    extensions = {"sni_hostname": url.host} if url.scheme == "https" else {}
    try:
        # to the address that was judged: another look-up might give another one
        async with (
            httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=None) as client,
            client.stream(
                "POST", url.copy_with(host=address), content=body, headers=headers, extensions=extensions
            ) as response,
        ):
            answer = await _read(endpoint, response)
            return _result(context, endpoint, response, answer)
    except httpx2.HTTPError as error:
        raise ExecutionFailed(f"Endpoint {endpoint.slug} can't be reached ({type(error).__name__}).") from None


def _message(context: ExecutionContext, now: datetime) -> dict[str, Any]:
    return {
        "type": "task.execution",
        "timestamp": now.isoformat(),
        "data": {
            "task_id": context.task_id,
            "nova_id": context.nova_id,
            "title": context.title,
            "description": context.description,
            "metadata": dict(context.metadata),
            "attempt": context.attempt,
            "runs": context.runs,
        },
    }


async def _read(endpoint: HttpEndpoint, response: httpx2.Response) -> bytes:
    """Read an answer.

    :raises ExecutionFailed: it is longer than the endpoint's limit.
    """
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > endpoint.response_limit:
            text = f"The answer of endpoint {endpoint.slug} is longer than {endpoint.response_limit:,} bytes."
            raise ExecutionFailed(text, retryable=False)
    return body


def _result(context: ExecutionContext, endpoint: HttpEndpoint, response: httpx2.Response, body: bytes) -> Result:
    """Take an answer as result: JSON with results, metrics and needs, or any text.

    :raises ExecutionFailed: its status says that the work was not done.
    """
    status, who = response.status_code, f"Endpoint {endpoint.slug}"
    text = body.decode("utf-8", "replace")
    if status == 429 or (status == 503 and "retry-after" in response.headers):
        wait = retry_after(response.headers, _clock()) or timedelta(seconds=30)
        raise ExecutionFailed(f"{who} has enough for now ({status}).", retry_after=wait)
    if 300 <= status < 400:
        raise ExecutionFailed(f"{who} leads elsewhere ({status}), which is not followed.", retryable=False)
    if status == 410:
        needs = {"owner": "operator", "action": f"archive endpoint {endpoint.slug}, or give it its new address"}
        raise ExecutionFailed(f"{who} is gone (410).", retryable=False, needs=needs)
    if status >= 400:
        passing = status >= 500 or status in (408, 409, 425)
        raise ExecutionFailed(f"{who} refused ({status}): {text[:_SHOWN]}", retryable=passing)
    metrics: dict[str, Any] = {"endpoint": endpoint.slug, "status": status, "response_bytes": len(body), "runs": context.runs}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Result(text, metrics)
    if not isinstance(found, dict):
        return Result(text, metrics)
    results, told, wanted = found.get("results", text), found.get("metrics"), found.get("needs")
    if isinstance(told, Mapping):
        metrics = {**told, **metrics}
    if wanted is not None and not (isinstance(wanted, Mapping) and {"owner", "action"} <= set(wanted)):
        raise ExecutionFailed(f"{who} says what it needs without owner and action.", retryable=False)
    return Result(results if isinstance(results, str) else orjson.dumps(results).decode(), metrics, needs=wanted)


def _endpoint(slug: str) -> tuple[HttpEndpoint, str]:
    endpoint = HttpEndpoint.objects.filter(pk=slug, archived_at=None).first()
    if endpoint is None:
        needs = {"owner": "operator", "action": f"configure the endpoint {slug or '(none)'}, or give the task another action"}
        raise ExecutionFailed(f"There is no endpoint {slug!r}; nothing was sent.", retryable=False, needs=needs)
    try:
        return endpoint, decrypt(endpoint.encrypted_secret)
    except SecretUnreadable as error:
        needs = {"owner": "operator", "action": f"give endpoint {slug} its secret anew"}
        raise ExecutionFailed(f"The secret of endpoint {slug} can't be read: {error}", retryable=False, needs=needs) from None
