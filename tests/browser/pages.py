"""The pages that are looked at: by axe and for errors in the tests, and by whoever reads the documents (make screenshots)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """A page: name, address (`{task}`: a task's id), whether it is seen logged in, and the link to follow from there."""

    name: str
    path: str
    logged_in: bool = True
    follow: str = ""  # a selector

    def at(self, task_id: str) -> str:
        return self.path.format(task=task_id)


PAGES = (
    Page("login", "/accounts/login/", logged_in=False),
    Page("fleet", "/"),
    Page("nova", "/novas/torch/"),
    Page("nova-tasks", "/novas/torch/?tab=tasks&hours=24#tabs"),
    Page("nova-streams", "/novas/torch/?tab=streams#tabs"),
    Page("nova-safety", "/novas/torch/?tab=safety#tabs"),
    Page("nova-configuration", "/novas/torch/?tab=configuration#tabs"),
    Page("nova-keys", "/novas/torch/?tab=keys#tabs"),
    Page("pause", "/novas/torch/pause/"),
    Page("board", "/board/?view=columns"),
    Page("board-table", "/board/?view=table"),
    Page("task", "/tasks/{task}/"),
    Page("task-edit", "/tasks/{task}/edit/"),
    Page("new-task", "/tasks/new/?nova=torch"),
    Page("waiting", "/waiting/"),
    Page("stop-all", "/stop-all/"),
    Page("safety", "/safety/"),
    Page("incident", "/safety/incidents/1/"),
    Page("handover", "/handover/"),
    Page("journal", "/journal/"),
    Page("journal-entry", "/journal/?action=workflow.n", follow=".journal tbody th a"),
    Page("journal-export", "/journal/export/?action=workflow.nova"),
    Page("reports", "/reports/"),
    Page("report", "/reports/", follow="tbody th a"),
    Page("wall", "/reports/?kiosk=1&hold=1&section=1"),
    Page("alerts", "/alerts/"),
    Page("second-factor", "/accounts/2fa/"),
)
THEMES = ("light", "dark")
SIZES = ((1280, 800), (390, 844))  # a desk, a telephone
