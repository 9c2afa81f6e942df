from workflow.admin import (
    agents,
    configured,
    executors,
    incidents,
    keys,
    novas,
    observed,
    providers,
    records,
    seals,
    stops,
    tasks,
)

__all__ = [
    "agents",
    "configured",
    "executors",
    "incidents",
    "keys",
    "novas",
    "observed",
    "providers",
    "records",
    "seals",
    "stops",
    "tasks",
]
