from workflow.admin import agents, configured, incidents, novas, observed, providers, records, stops, tasks

__all__ = ["agents", "configured", "incidents", "novas", "observed", "providers", "records", "stops", "tasks"]
