from workflow.admin import agents, configured, incidents, keys, novas, observed, providers, records, stops, tasks

__all__ = ["agents", "configured", "incidents", "keys", "novas", "observed", "providers", "records", "stops", "tasks"]
