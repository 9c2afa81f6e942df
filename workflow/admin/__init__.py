from workflow.admin import agents, configured, novas, observed, records, stops, tasks

__all__ = ["agents", "configured", "novas", "observed", "records", "stops", "tasks"]
