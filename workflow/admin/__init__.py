from workflow.admin import configured, novas, records, tasks

__all__ = ["configured", "novas", "records", "tasks"]
