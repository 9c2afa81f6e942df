"""The addresses of reporting at /api/v1/. A slash at the end is accepted and not needed."""

from django.urls import re_path

from reporting.api import dashboards

NOVA = r"novas/(?P<nova_id>[a-z0-9_-]{1,63})"
TEAM = r"teams/(?P<team>[A-Za-z0-9_-]{1,64})"

app_name = "reporting"
urlpatterns = [
    re_path(r"^dashboard/?$", dashboards.Dashboard.as_view(), name="dashboard"),
    re_path(rf"^{TEAM}/dashboard/?$", dashboards.Dashboard.as_view(), name="team-dashboard"),
    re_path(rf"^{NOVA}/dashboard/?$", dashboards.NovaDashboard.as_view(), name="nova-dashboard"),
    re_path(r"^series/?$", dashboards.Series.as_view(), name="series"),
    re_path(rf"^{TEAM}/series/?$", dashboards.Series.as_view(), name="team-series"),
    re_path(rf"^{NOVA}/series/?$", dashboards.NovaSeries.as_view(), name="nova-series"),
]
