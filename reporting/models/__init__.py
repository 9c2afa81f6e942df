"""What reporting keeps: the journal summed up, metrics, reports and their schedules."""

from reporting.models.figures import EnterpriseMetric, Membership, Rework, RollUp, RollUpCursor
from reporting.models.report import Report, ReportLink, ReportSchedule

__all__ = [
    "EnterpriseMetric",
    "Membership",
    "Report",
    "ReportLink",
    "ReportSchedule",
    "Rework",
    "RollUp",
    "RollUpCursor",
]
