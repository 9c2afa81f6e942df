"""What the admin's frame shows: its name, its home, and its navigation, where everybody finds only what they may open."""

from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _page(title: str, icon: str, model: str) -> dict[str, Any]:
    """Lead to a model's list; `model` is `app.name`."""
    app, name = model.split(".")

    def may_open(request: HttpRequest) -> bool:
        from django.contrib import admin

        page = next((page for kind, page in admin.site._registry.items() if kind._meta.label_lower == model), None)
        return page is not None and page.has_view_permission(request)

    link = reverse_lazy(f"admin:{app}_{name}_changelist")
    return {"title": title, "icon": icon, "link": link, "permission": may_open}


def _dashboard(title: str, icon: str, name: str) -> dict[str, Any]:
    """Lead to a dashboard page, if this installation has it."""

    def link(request: HttpRequest | None = None) -> str:
        from safety.admin import dashboard_url

        return dashboard_url(name)

    def is_there(request: HttpRequest) -> bool:
        return bool(link())

    return {"title": title, "icon": icon, "link": link, "permission": is_there, "active": False}


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "NOVAWF",
    "SITE_HEADER": "NOVAWF",
    "SITE_SUBHEADER": "Operator console",
    "SITE_SYMBOL": "hub",
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": True,  # the dashboard of a row, where it has one
    "SHOW_BACK_BUTTON": True,
    "DASHBOARD_CALLBACK": "workflow.admin.home.console",
    "STYLES": [lambda request: static("workflow/console.css")],
    "COMMAND": {"search_models": False, "show_history": False},
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": "",
                "items": [{"title": "Console", "icon": "home", "link": reverse_lazy("admin:index")}],
            },
            {
                "title": "Dashboards",
                "items": [
                    _dashboard("Fleet", "monitoring", "fleet"),
                    _dashboard("Board", "view_kanban", "board"),
                    _dashboard("Safety", "shield", "safety"),
                    _dashboard("Journal", "history", "journal"),
                    _dashboard("Reports", "summarize", "reports"),
                ],
            },
            {
                "title": "Fleet",
                "items": [
                    _page("Novas", "smart_toy", "workflow.nova"),
                    _page("Tasks", "task_alt", "workflow.task"),
                    _page("Approvals", "approval", "workflow.approval"),
                    _page("Executions", "bolt", "workflow.execution"),
                    _page("Inbox", "inbox", "workflow.inboxmessage"),
                    _page("Objectives", "flag", "workflow.objective"),
                ],
            },
            {
                "title": "Safety",
                "items": [
                    _page("Incidents", "emergency_home", "safety.safetyincident"),
                    _page("Orders to stop", "front_hand", "workflow.halt"),
                    _page("Safety policies", "policy", "safety.safetypolicy"),
                    _page("Observed policies", "visibility", "safety.candidateverdict"),
                    _page("Provider accounts", "cloud", "safety.provideraccount"),
                    _page("Agent sessions", "terminal", "safety.hooksession"),
                    _page("Hook calls", "webhook", "safety.hookevent"),
                    _page("Keys", "vpn_key", "safety.apikey"),
                ],
            },
            {
                "title": "Alerts",
                "items": [
                    _page("Alerts", "notifications_active", "reporting.alertevent"),
                    _page("Rules", "rule", "reporting.alertrule"),
                    _page("Channels", "campaign", "reporting.alertchannel"),
                    _page("Deliveries", "outbox", "reporting.alertdelivery"),
                ],
            },
            {
                "title": "Record",
                "items": [
                    _page("Journal", "menu_book", "safety.auditentry"),
                    _page("Seals", "verified", "safety.auditseal"),
                    _page("Verifications", "fact_check", "safety.verificationrun"),
                    _page("Usage of models", "data_usage", "workflow.novausage"),
                ],
            },
            {
                "title": "Set-up",
                "items": [
                    _page("Personalities", "psychology", "workflow.personality"),
                    _page("Commands", "terminal", "workflow.commandtemplate"),
                    _page("HTTP endpoints", "send", "workflow.httpendpoint"),
                    _page("Prices of models", "payments", "workflow.modelprice"),
                    _page("Users", "person", "auth.user"),
                    _page("Roles", "group", "auth.group"),
                ],
            },
            {
                "title": "Machinery",
                "collapsible": True,
                "items": [
                    _page("Leases", "key", "workflow.lease"),
                    _page("Stream cursors", "bookmark", "workflow.streamcursor"),
                    _page("Queue", "queue", "django_q.ormq"),
                    _page("Schedules", "schedule", "django_q.schedule"),
                    _page("Jobs done", "done_all", "django_q.success"),
                    _page("Jobs failed", "error", "django_q.failure"),
                ],
            },
        ],
    },
}
