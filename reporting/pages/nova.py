"""The page of one Nova: where it stands, why, since when, and what an operator can do about it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import Http404, HttpRequest

from reporting.fleet_rows import row_of
from reporting.fragments import fragment, page
from reporting.pages.controls import OFFERED
from workflow import halts
from workflow.nova_verbs import NOVA_VERBS


@fragment("nova:{nova_id}", "reporting/nova/standing.html")
def nova_standing(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give where a Nova stands, and the verbs that would change it."""
    row = row_of(nova_id, now)
    if row is None:
        raise Http404
    offered = [NOVA_VERBS[name] for name in OFFERED if NOVA_VERBS[name].offered(row.state.mode)]
    allowed = {
        "resume": request.user.has_perm(halts.right_to_resume([row.state.mode])),
        "wake": request.user.has_perm("workflow.change_nova"),
    }
    may_stop = request.user.has_perm("workflow.order_stop")
    return {"row": row, "verbs": [verb for verb in offered if allowed.get(verb.name, may_stop)]}


@page("reporting/nova/page.html", "workflow.view_nova")
def nova(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Show one Nova."""
    row = row_of(nova_id, now)
    if row is None:
        raise Http404
    return {"row": row, "standing": nova_standing.show(request, now, nova_id=nova_id)}
