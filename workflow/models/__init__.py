from workflow.models.approval import Approval
from workflow.models.execution import Execution
from workflow.models.halt import Halt, HaltConfirmation
from workflow.models.inbox import InboxMessage, StreamCursor
from workflow.models.lease import Lease
from workflow.models.nova import MomentumLedger, Nova, NovaState, Objective, Personality
from workflow.models.task import Task, TaskDependency, TaskNumber, TaskStatistics

__all__ = [
    "Approval",
    "Execution",
    "Halt",
    "HaltConfirmation",
    "InboxMessage",
    "Lease",
    "MomentumLedger",
    "Nova",
    "NovaState",
    "Objective",
    "Personality",
    "StreamCursor",
    "Task",
    "TaskDependency",
    "TaskNumber",
    "TaskStatistics",
]
