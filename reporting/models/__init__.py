from reporting.models.alert import AlertChannel, AlertDelivery, AlertEvent, AlertMemory, AlertRule

__all__ = ["AlertChannel", "AlertDelivery", "AlertEvent", "AlertMemory", "AlertRule"]
