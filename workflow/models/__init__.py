from workflow.models.approval import Approval
from workflow.models.command import CommandTemplate
from workflow.models.endpoint import HttpEndpoint
from workflow.models.execution import Execution
from workflow.models.halt import Halt, HaltConfirmation
from workflow.models.inbox import InboxMessage, StreamCursor
from workflow.models.lease import Lease
from workflow.models.nova import MomentumLedger, Nova, NovaState, Objective, Personality
from workflow.models.task import Task, TaskDependency, TaskNumber, TaskStatistics
from workflow.models.usage import ModelPrice, NovaUsage

__all__ = [
    "Approval",
    "CommandTemplate",
    "Execution",
    "Halt",
    "HaltConfirmation",
    "HttpEndpoint",
    "InboxMessage",
    "Lease",
    "ModelPrice",
    "MomentumLedger",
    "Nova",
    "NovaState",
    "NovaUsage",
    "Objective",
    "Personality",
    "StreamCursor",
    "Task",
    "TaskDependency",
    "TaskNumber",
    "TaskStatistics",
]
