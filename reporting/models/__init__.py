"""What reporting keeps: the journal summed up, metrics, reports and their schedules, alerts."""

from reporting.models.alert import AlertChannel, AlertDelivery, AlertEvent, AlertMemory, AlertRule
from reporting.models.figures import EnterpriseMetric, Membership, Rework, RollUp, RollUpCursor
from reporting.models.handover import HandoverMark
from reporting.models.report import Report, ReportLink, ReportSchedule

__all__ = [
    "AlertChannel",
    "AlertDelivery",
    "AlertEvent",
    "AlertMemory",
    "AlertRule",
    "EnterpriseMetric",
    "HandoverMark",
    "Membership",
    "Report",
    "ReportLink",
    "ReportSchedule",
    "Rework",
    "RollUp",
    "RollUpCursor",
]
