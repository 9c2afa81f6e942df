from workflow.admin import agents, configured, incidents, novas, providers, records, stops, tasks

__all__ = ["agents", "configured", "incidents", "novas", "providers", "records", "stops", "tasks"]
