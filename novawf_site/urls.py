"""Which address leads to which door."""

from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.contrib import admin
from django.urls import include, path, re_path

from novawf_site import sign_in
from reporting import health, prometheus, report_views
from workflow.api import schema
from workflow.api.views import Nothing

# Whose second factor and which accounts elsewhere somebody has is their own page's; secrets are in those rows.
for _model in (EmailAddress, Authenticator, SocialAccount, SocialApp, SocialToken):
    admin.site.unregister(_model)
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("", include("reporting.urls")),
    path("accounts/", include(sign_in.urlpatterns)),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", prometheus.metrics, name="metrics"),
    path("admin/", admin.site.urls),
    path("reports/<str:report_id>/print", report_views.printed, name="report-print"),
    path("reports/shared/<str:token>", report_views.shared, name="report-shared"),
    path("api/v1/", include("reporting.api.urls")),
    path("api/v1/", include("workflow.api.urls")),
    path("api/docs/", schema.docs, name="api-docs"),
    re_path(r"^api/", Nothing.as_view()),
]

handler400 = "workflow.api.problem.bad_request"
handler403 = "workflow.api.problem.permission_denied"
handler404 = "workflow.api.problem.not_found"
handler500 = "workflow.api.problem.server_error"
