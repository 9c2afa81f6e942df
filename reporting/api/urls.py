"""The addresses of reporting at /api/v1/. A slash at the end is accepted and not needed."""

from django.urls import re_path

from reporting.api import alerts, dashboards, handover, reports
from workflow.api.urls import configured

NOVA = r"novas/(?P<nova_id>[a-z0-9_-]{1,63})"
REPORT = r"reports/(?P<report_id>REPORT-[0-9a-f-]{1,30})"
TEAM = r"teams/(?P<team>[A-Za-z0-9_-]{1,64})"

CHANNEL = r"alert-channels/(?P<pk>[A-Za-z0-9_-]{1,64})"
DELIVERY = r"alert-deliveries/(?P<delivery_id>[0-9]{1,18})"

app_name = "reporting"
urlpatterns = [
    re_path(r"^dashboard/?$", dashboards.Dashboard.as_view(), name="dashboard"),
    re_path(rf"^{TEAM}/dashboard/?$", dashboards.Dashboard.as_view(), name="team-dashboard"),
    re_path(rf"^{NOVA}/dashboard/?$", dashboards.NovaDashboard.as_view(), name="nova-dashboard"),
    re_path(r"^series/?$", dashboards.Series.as_view(), name="series"),
    re_path(rf"^{TEAM}/series/?$", dashboards.Series.as_view(), name="team-series"),
    re_path(rf"^{NOVA}/series/?$", dashboards.NovaSeries.as_view(), name="nova-series"),
    re_path(r"^handover/?$", handover.HandoverDoor.as_view(), name="handover"),
    re_path(r"^handover/take/?$", handover.HandoverTaken.as_view(), name="handover-take"),
    re_path(r"^alerts/?$", alerts.AlertList.as_view(), name="alerts"),
    re_path(r"^alerts/(?P<alert_id>[0-9]{1,18})/?$", alerts.AlertDetail.as_view(), name="alert"),
    *configured(alerts.RULES, "alert-rules", "[A-Za-z0-9_-]{1,64}"),
    *configured(alerts.CHANNELS, "alert-channels", "[A-Za-z0-9_-]{1,64}"),
    re_path(rf"^{CHANNEL}/test/?$", alerts.ChannelTried.as_view(), name="alert-channel-test"),
    re_path(rf"^{CHANNEL}/reopen/?$", alerts.ChannelReopened.as_view(), name="alert-channel-reopen"),
    re_path(r"^alert-deliveries/?$", alerts.DeliveryList.as_view(), name="alert-deliveries"),
    re_path(rf"^{DELIVERY}/?$", alerts.DeliveryDetail.as_view(), name="alert-delivery"),
    re_path(rf"^{DELIVERY}/redeliver/?$", alerts.Redelivered.as_view(), name="alert-delivery-redeliver"),
    re_path(r"^reports/?$", reports.ReportList.as_view(), name="reports"),
    re_path(rf"^{REPORT}/?$", reports.ReportDetail.as_view(), name="report"),
    re_path(rf"^{REPORT}/export/(?P<kind>csv|xlsx|json)/?$", reports.ReportExport.as_view(), name="report-export"),
    re_path(rf"^{REPORT}/links/?$", reports.LinkList.as_view(), name="report-links"),
    re_path(
        rf"^{REPORT}/links/(?P<link_id>[0-9a-f]{{1,32}})/revoke/?$", reports.LinkRevoked.as_view(), name="report-link-revoke"
    ),
    re_path(r"^report-schedules/?$", reports.ScheduleList.as_view(), name="report-schedules"),
    re_path(
        r"^report-schedules/(?P<schedule_id>[0-9]{1,18})/(?P<verb>enable|disable)/?$",
        reports.ScheduleVerb.as_view(),
        name="report-schedule-verb",
    ),
]
