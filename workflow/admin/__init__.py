from workflow.admin import agents, configured, executors, incidents, novas, observed, providers, records, stops, tasks

__all__ = ["agents", "configured", "executors", "incidents", "novas", "observed", "providers", "records", "stops", "tasks"]
