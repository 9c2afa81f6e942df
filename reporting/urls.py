"""Which address leads to which page, part and control."""

from typing import Any

from django.urls import path, re_path

from reporting.pages import controls, keys, report_controls, reports, safety_controls, task_controls, theme
from reporting.pages.alerts import alerts, alerts_firing, alerts_lists
from reporting.pages.board import board, board_columns, board_table
from reporting.pages.fleet import fleet, fleet_summary, fleet_table
from reporting.pages.handover import handover, take_over
from reporting.pages.incident import control_incident, incident, incident_body
from reporting.pages.journal import export, journal, journal_badge, journal_entry, journal_newer, verify_journal
from reporting.pages.new_task import new_task
from reporting.pages.nova import nova, nova_standing, nova_tab
from reporting.pages.nova_charts import nova_charts
from reporting.pages.orders import banner, order, progress
from reporting.pages.safety import (
    safety,
    safety_guards,
    safety_incidents,
    safety_matrix,
    safety_orders,
    safety_summary,
)
from reporting.pages.task import task, task_body
from reporting.pages.waiting import decide, look_at, waiting, waiting_lists, waiting_number
from workflow.task_selections import VERBS

_VERBS = "|".join(controls.OFFERED)
_REPORT = r"reports/(?P<report_id>REPORT-[0-9a-f-]{1,30})"
_TASK_VERBS = "|".join(task_controls.OFFERED)

urlpatterns: list[Any] = [
    path("", fleet, name="fleet"),
    path("novas/<slug:nova_id>/", nova, name="nova"),
    re_path(rf"^novas/(?P<nova_id>[-\w]+)/(?P<verb>{_VERBS})/$", controls.control_nova, name="control-nova"),
    path("stop-all/", controls.stop_all, name="stop-all"),
    path("orders/<int:halt_id>/", order, name="order"),
    path("orders/<int:halt_id>/lift/", controls.lift_order, name="lift-order"),
    path("handover/", handover, name="handover"),
    path("handover/take/", take_over, name="take-over"),
    path("board/", board, name="board"),
    path("board/selection/", task_controls.select_tasks, name="select-tasks"),
    re_path(rf"^board/selection/(?P<token>[-\w]+)/(?P<verb>{'|'.join(VERBS)})/$", task_controls.selection, name="selection"),
    path("tasks/new/", new_task, name="new-task"),
    path("tasks/<str:task_id>/", task, name="task"),
    re_path(rf"^tasks/(?P<task_id>[^/]+)/(?P<verb>{_TASK_VERBS})/$", task_controls.control_task, name="control-task"),
    path("waiting/", waiting, name="waiting"),
    re_path(r"^waiting/approvals/(?P<approval_id>[0-9]{1,18})/(?P<verb>approve|deny)/$", decide, name="decide"),
    path("waiting/incidents/<int:incident_id>/acknowledge/", look_at, name="look-at"),
    path("safety/", safety, name="safety"),
    path("safety/drill/", safety_controls.drill, name="drill"),
    path("safety/breakers/<slug:slug>/close/", safety_controls.control_breaker, name="control-breaker"),
    path("safety/incidents/<int:incident_id>/", incident, name="incident"),
    path("safety/incidents/<int:incident_id>/<slug:verb>/", control_incident, name="control-incident"),
    path("keys/", keys.choose_keys, name="keys"),
    path("journal/", journal, name="journal"),
    path("journal/<int:entry_id>/", journal_entry, name="journal-entry"),
    path("journal/verify/", verify_journal, name="verify-journal"),
    path("journal/export/", export, name="export-journal"),
    path("reports/", reports.reports, name="reports"),
    path("reports/new/", reports.new_report, name="new-report"),
    path("reports/schedules/new/", reports.new_schedule, name="new-schedule"),
    re_path(
        r"^reports/schedules/(?P<schedule_id>[0-9]{1,18})/(?P<verb>enable|disable)/$",
        report_controls.switch_schedule,
        name="switch-schedule",
    ),
    re_path(rf"^{_REPORT}/$", reports.report, name="report"),
    re_path(rf"^{_REPORT}/share/$", report_controls.share_report, name="share-report"),
    re_path(rf"^{_REPORT}/links/(?P<link_id>[0-9a-f]{{1,32}})/revoke/$", report_controls.revoke_link, name="revoke-link"),
    path("alerts/", alerts, name="alerts"),
    path("theme/", theme.choose_theme, name="theme"),
    # parts of pages, asked for again when their topic changed
    path("parts/banner/", banner, name="part-banner"),
    path("parts/fleet/summary/", fleet_summary, name="part-fleet-summary"),
    path("parts/fleet/table/", fleet_table, name="part-fleet-table"),
    path("parts/novas/<slug:nova_id>/", nova_standing, name="part-nova-standing"),
    path("parts/board/columns/", board_columns, name="part-board-columns"),
    path("parts/board/table/", board_table, name="part-board-table"),
    path("parts/tasks/<str:task_id>/", task_body, name="part-task-body"),
    path("parts/waiting/number/", waiting_number, name="part-waiting-number"),
    path("parts/waiting/lists/", waiting_lists, name="part-waiting-lists"),
    path("parts/novas/<slug:nova_id>/charts/", nova_charts, name="part-nova-charts"),
    path("parts/novas/<slug:nova_id>/tab/", nova_tab, name="part-nova-tab"),
    path("parts/journal/badge/", journal_badge, name="part-journal-badge"),
    path("parts/journal/newer/<int:after>/", journal_newer, name="part-journal-newer"),
    path("parts/alerts/firing/", alerts_firing, name="part-alerts-firing"),
    path("parts/alerts/lists/", alerts_lists, name="part-alerts-lists"),
    path("parts/orders/<int:halt_id>/", progress, name="part-progress"),
    path("parts/safety/summary/", safety_summary, name="part-safety-summary"),
    path("parts/safety/orders/", safety_orders, name="part-safety-orders"),
    path("parts/safety/matrix/", safety_matrix, name="part-safety-matrix"),
    path("parts/safety/incidents/", safety_incidents, name="part-safety-incidents"),
    path("parts/safety/guards/", safety_guards, name="part-safety-guards"),
    path("parts/safety/incidents/<int:incident_id>/", incident_body, name="part-incident-body"),
]
