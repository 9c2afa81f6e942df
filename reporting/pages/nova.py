"""The page of one Nova: where it stands, why, since when, what an operator can do about it; charts; and six tabs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import Http404, HttpRequest
from django.utils.http import urlencode

from reporting.fleet_rows import row_of
from reporting.fragments import demand, fragment, page
from reporting.pages import nova_tabs
from reporting.pages.controls import OFFERED
from reporting.pages.nova_charts import HOURS, hours_asked_for, nova_charts
from safety.admin import may_read_texts
from workflow import halts
from workflow.core.state import TRANSITIONS, WorkflowState
from workflow.models import NovaState
from workflow.nova_verbs import NOVA_VERBS

OFF_THE_ROUND = (WorkflowState.ERROR_RECOVERY, WorkflowState.SAFETY_PAUSE)
KEYS = frozenset({"tab", "chapter", "before", "hours"})


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab of the page, as a link; `right` is needed beyond that of the page."""

    name: str
    title: str
    right: str = ""

    @property
    def template(self) -> str:
        return f"reporting/nova/{self.name}.html"


TABS: Mapping[str, Tab] = {
    tab.name: tab
    for tab in (
        Tab("activity", "Activity"),
        Tab("tasks", "Tasks", "workflow.view_task"),
        Tab("streams", "Streams"),
        Tab("safety", "Safety"),
        Tab("configuration", "Configuration"),
        Tab("keys", "Keys", "safety.view_apikey"),
    )
}
_GATHER = {
    "activity": nova_tabs.activity,
    "tasks": nova_tabs.tasks,
    "streams": nova_tabs.streams,
    "safety": nova_tabs.safety,
    "configuration": nova_tabs.configuration,
    "keys": nova_tabs.keys,
}


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
    stopped = row.state.mode not in NovaState.RUNNING_MODES
    return {
        "row": row,
        "verbs": [verb for verb in offered if allowed.get(verb.name, may_stop)],
        "texts": may_read_texts(request),
        "stopped": stopped,
        "due_now": not stopped and row.state.due_at <= now,
        "round": [state for state in WorkflowState if state not in OFF_THE_ROUND],
        "off_the_round": OFF_THE_ROUND,
        "next_states": TRANSITIONS[WorkflowState(row.state.current_state)] - set(OFF_THE_ROUND),
    }


@fragment("nova:{nova_id}", "reporting/nova/tab.html", keys=KEYS)
def nova_tab(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give one tab, as the query asks; whoever may not see it is refused."""
    tab = tab_asked_for(request)
    demand(request, tab.right)
    return {"tab": tab, "nova_id": nova_id, **_GATHER[tab.name](request, now, nova_id)}


@page("reporting/nova/page.html", "workflow.view_nova")
def nova(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Show one Nova."""
    row = row_of(nova_id, now)
    if row is None:
        raise Http404
    chosen, hours, kept = tab_asked_for(request), hours_asked_for(request), _kept(request)
    demand(request, chosen.right)
    user: Any = request.user
    shown = [tab for tab in TABS.values() if not tab.right or user.has_perm(tab.right)]
    return {
        "row": row,
        "standing": nova_standing.show(request, now, nova_id=nova_id),
        "charts": nova_charts.show(request, now, nova_id=nova_id),
        "tabs": [(tab, f"{_link(tab, **kept)}#tabs", tab == chosen) for tab in shown],
        "tab": nova_tab.show(request, now, nova_id=nova_id),
        "hours": [(words, _link(chosen, hours=given), given == hours) for given, words in HOURS],
    }


def tab_asked_for(request: HttpRequest) -> Tab:
    """Give the tab of the query; the first for a word that names none."""
    return TABS.get(request.GET.get("tab", ""), TABS["activity"])


def _link(tab: Tab, **more: str | int) -> str:
    query: dict[str, str | int] = {"tab": tab.name, **more}
    return f"?{urlencode(query)}"


def _kept(request: HttpRequest) -> dict[str, int]:
    """Give what a link to another tab keeps of the query: the length of the timeline, if it is not the usual one."""
    hours = hours_asked_for(request)
    return {"hours": hours} if hours != HOURS[0][0] else {}
