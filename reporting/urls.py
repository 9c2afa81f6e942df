"""Which address leads to which page, part and control."""

from typing import Any

from django.urls import path, re_path

from reporting.pages import controls, theme
from reporting.pages.fleet import fleet, fleet_summary, fleet_table
from reporting.pages.handover import handover, take_over
from reporting.pages.nova import nova, nova_standing, nova_tab
from reporting.pages.nova_charts import nova_charts
from reporting.pages.orders import banner, order, progress

_VERBS = "|".join(controls.OFFERED)

urlpatterns: list[Any] = [
    path("", fleet, name="fleet"),
    path("novas/<slug:nova_id>/", nova, name="nova"),
    re_path(rf"^novas/(?P<nova_id>[-\w]+)/(?P<verb>{_VERBS})/$", controls.control_nova, name="control-nova"),
    path("stop-all/", controls.stop_all, name="stop-all"),
    path("orders/<int:halt_id>/", order, name="order"),
    path("orders/<int:halt_id>/lift/", controls.lift_order, name="lift-order"),
    path("handover/", handover, name="handover"),
    path("handover/take/", take_over, name="take-over"),
    path("theme/", theme.choose_theme, name="theme"),
    # parts of pages, asked for again when their topic changed
    path("parts/banner/", banner, name="part-banner"),
    path("parts/fleet/summary/", fleet_summary, name="part-fleet-summary"),
    path("parts/fleet/table/", fleet_table, name="part-fleet-table"),
    path("parts/novas/<slug:nova_id>/", nova_standing, name="part-nova-standing"),
    path("parts/novas/<slug:nova_id>/charts/", nova_charts, name="part-nova-charts"),
    path("parts/novas/<slug:nova_id>/tab/", nova_tab, name="part-nova-tab"),
    path("parts/orders/<int:halt_id>/", progress, name="part-progress"),
]
