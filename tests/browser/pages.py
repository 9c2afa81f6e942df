"""The pages that are looked at: by axe and for errors in the tests, and by whoever reads the documents (make screenshots)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its name, its address, whether it is seen logged in, and the link to follow from there to reach it."""

    name: str
    path: str
    logged_in: bool = True
    follow: str = ""  # a selector


PAGES = (
    Page("login", "/accounts/login/", logged_in=False),
    Page("fleet", "/"),
    Page("nova", "/novas/torch/"),
    Page("pause", "/novas/torch/pause/"),
    Page("stop-all", "/stop-all/"),
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
