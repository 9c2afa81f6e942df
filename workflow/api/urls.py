"""The addresses of /api/v1/. A slash at the end is accepted and not needed."""

from django.urls import re_path

from workflow.api import views

NOVA = r"novas/(?P<nova_id>[a-z0-9_-]{1,63})"
TASK = r"tasks/(?P<task_id>[A-Za-z0-9_.:-]{1,96})"

app_name = "api"
urlpatterns = [
    re_path(r"^$", views.Root.as_view(), name="root"),
    re_path(r"^novas/?$", views.NovaList.as_view(), name="novas"),
    re_path(rf"^{NOVA}/?$", views.NovaDetail.as_view(), name="nova"),
    re_path(rf"^{NOVA}/(?P<verb>pause|resume|drain|wake)/?$", views.NovaVerb.as_view(), name="nova-verb"),
    re_path(r"^tasks/?$", views.TaskList.as_view(), name="tasks"),
    re_path(rf"^{TASK}/?$", views.TaskDetail.as_view(), name="task"),
    re_path(rf"^{TASK}/(?P<verb>cancel|unblock|priority)/?$", views.TaskVerb.as_view(), name="task-verb"),
]
