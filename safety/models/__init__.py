from safety.models.answer import StoredAnswer
from safety.models.credential import ApiKey
from safety.models.hook import HookEvent, HookSession
from safety.models.incident import SafetyIncident
from safety.models.journal import AuditEntry, AuditEntryQuerySet, Installation, JournalHead, JournalIsAppendOnly, OutboxEntry
from safety.models.policy import RULE_DURATIONS, SafetyPolicy
from safety.models.provider import ProviderAccount
from safety.models.seal import AuditSeal, SealArchive, SealCandidate, VerificationRun
from safety.models.state import CandidateVerdict, FleetFact, Observation, SafetyState

__all__ = [
    "RULE_DURATIONS",
    "ApiKey",
    "AuditEntry",
    "AuditEntryQuerySet",
    "AuditSeal",
    "CandidateVerdict",
    "FleetFact",
    "HookEvent",
    "HookSession",
    "Installation",
    "JournalHead",
    "JournalIsAppendOnly",
    "Observation",
    "OutboxEntry",
    "ProviderAccount",
    "SafetyIncident",
    "SafetyPolicy",
    "SafetyState",
    "SealArchive",
    "SealCandidate",
    "StoredAnswer",
    "VerificationRun",
]
