from workflow.admin import agents, configured, novas, records, tasks

__all__ = ["agents", "configured", "novas", "records", "tasks"]
