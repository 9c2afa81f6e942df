from workflow.admin import agents, configured, novas, records, stops, tasks

__all__ = ["agents", "configured", "novas", "records", "stops", "tasks"]
