"""The addresses of /api/v1/. A slash at the end is accepted and not needed."""

from django.urls import URLPattern, re_path

from workflow.api import (
    agent_tasks,
    approvals,
    configuration_views,
    document,
    events,
    executors,
    halts,
    hooks,
    incidents,
    keys,
    messages,
    own_nova,
    permits,
    record_views,
    seals,
    task_edits,
    views,
)
from workflow.api.configuration_views import OBJECTIVES, PERSONALITIES, POLICIES, PROVIDERS, Kind
from workflow.api.executors import COMMANDS, ENDPOINTS, PRICES

NOVA = r"novas/(?P<nova_id>[a-z0-9_-]{1,63})"
KEY = r"keys/(?P<key_id>[0-9]{1,18})"
INCIDENT = r"incidents/(?P<incident_id>[0-9]{1,18})"
ACCOUNT = "[A-Za-z0-9_-]{1,63}"
TASK = r"tasks/(?P<task_id>[A-Za-z0-9_.:-]{1,96})"


def configured(kind: Kind, plural: str, pk: str) -> list[URLPattern]:
    """Give the addresses of one kind of configured row."""
    rows, row, verb = configuration_views.doors(kind)
    return [
        re_path(rf"^{plural}/?$", rows.as_view(), name=plural),
        re_path(rf"^{plural}/(?P<pk>{pk})/?$", row.as_view(), name=kind.name),
        re_path(rf"^{plural}/(?P<pk>{pk})/(?P<verb>archive|restore)/?$", verb.as_view(), name=f"{kind.name}-verb"),
    ]


app_name = "api"
urlpatterns = [
    re_path(r"^$", views.Root.as_view(), name="root"),
    re_path(r"^novas/?$", configuration_views.Novas.as_view(), name="novas"),
    re_path(rf"^{NOVA}/?$", configuration_views.NovaOne.as_view(), name="nova"),
    re_path(rf"^{NOVA}/(?P<verb>wake)/?$", halts.NovaVerb.as_view(), name="nova-verb"),
    re_path(rf"^{NOVA}/(?P<verb>pause|drain|halt|kill)/?$", halts.NovaStop.as_view(), name="nova-stop"),
    re_path(rf"^{NOVA}/(?P<verb>resume)/?$", halts.NovaResume.as_view(), name="nova-resume"),
    re_path(rf"^{NOVA}/(?P<verb>lift-safety)/?$", halts.NovaLiftSafety.as_view(), name="nova-lift-safety"),
    re_path(rf"^{NOVA}/halt-ack/?$", halts.HaltAcknowledged.as_view(), name="nova-halt-ack"),
    re_path(rf"^{NOVA}/api-permits/?$", permits.Permits.as_view(), name="api-permits"),
    re_path(rf"^{NOVA}/api-permits/(?P<permit_id>[0-9a-f]{{1,64}})/?$", permits.PermitReturn.as_view(), name="api-permit"),
    re_path(rf"^{NOVA}/violations/?$", incidents.ViolationReport.as_view(), name="nova-violations"),
    re_path(r"^incidents/?$", incidents.IncidentList.as_view(), name="incidents"),
    re_path(rf"^{INCIDENT}/?$", incidents.IncidentDetail.as_view(), name="incident"),
    re_path(
        rf"^{INCIDENT}/(?P<verb>acknowledge|mitigate|resolve|false-positive|note)/?$",
        incidents.IncidentVerb.as_view(),
        name="incident-verb",
    ),
    re_path(r"^halts/?$", halts.HaltList.as_view(), name="halts"),
    re_path(r"^halts/(?P<halt_id>[0-9]{1,18})/?$", halts.HaltDetail.as_view(), name="halt"),
    re_path(r"^halts/(?P<halt_id>[0-9]{1,18})/lift/?$", halts.HaltLift.as_view(), name="halt-lift"),
    re_path(r"^keys/?$", keys.KeyList.as_view(), name="keys"),
    re_path(rf"^{KEY}/?$", keys.KeyDetail.as_view(), name="key"),
    re_path(rf"^{KEY}/rotate/?$", keys.KeyRotation.as_view(), name="key-rotation"),
    re_path(rf"^{KEY}/(?P<verb>suspend|reinstate|revoke)/?$", keys.KeyVerb.as_view(), name="key-verb"),
    re_path(r"^hooks/claude-code/?$", hooks.claude_code, name="hooks-claude-code"),
    re_path(rf"^{NOVA}/heartbeat/?$", agent_tasks.NovaHeartbeat.as_view(), name="nova-heartbeat"),
    re_path(rf"^{NOVA}/safety-check/?$", own_nova.SafetyCheck.as_view(), name="nova-safety-check"),
    re_path(rf"^{NOVA}/usage/?$", own_nova.Usage.as_view(), name="nova-usage"),
    re_path(r"^whoami/?$", own_nova.WhoAmI.as_view(), name="whoami"),
    re_path(rf"^{NOVA}/messages/?$", messages.NovaMessages.as_view(), name="nova-messages"),
    re_path(r"^messages/ack/?$", messages.MessagesAcknowledged.as_view(), name="messages-ack"),
    re_path(r"^approvals/?$", approvals.ApprovalList.as_view(), name="approvals"),
    re_path(r"^approvals/(?P<approval_id>[0-9]{1,18})/?$", approvals.ApprovalDetail.as_view(), name="approval"),
    re_path(
        r"^approvals/(?P<approval_id>[0-9]{1,18})/(?P<verb>approve|deny)/?$",
        approvals.ApprovalVerb.as_view(),
        name="approval-verb",
    ),
    re_path(r"^tasks/claim/?$", agent_tasks.ClaimTasks.as_view(), name="tasks-claim"),
    re_path(r"^tasks/complete/?$", agent_tasks.CompleteTasks.as_view(), name="tasks-complete"),
    re_path(r"^tasks/bulk/?$", task_edits.BulkTasks.as_view(), name="tasks-bulk"),
    re_path(r"^tasks/?$", views.TaskList.as_view(), name="tasks"),
    re_path(rf"^{TASK}/?$", views.TaskDetail.as_view(), name="task"),
    re_path(
        rf"^{TASK}/(?P<verb>renew|progress|complete|fail|block|release)/?$",
        agent_tasks.TaskReport.as_view(),
        name="task-report",
    ),
    re_path(rf"^{TASK}/retry/?$", task_edits.TaskRetry.as_view(), name="task-retry"),
    re_path(rf"^{TASK}/dependencies/?$", task_edits.TaskDependencies.as_view(), name="task-dependencies"),
    re_path(rf"^{TASK}/(?P<verb>cancel|unblock|priority)/?$", views.TaskVerb.as_view(), name="task-verb"),
    *configured(PERSONALITIES, "personalities", "[A-Za-z0-9_-]{1,64}"),
    *configured(POLICIES, "policies", "[A-Za-z0-9_-]{1,64}"),
    *configured(OBJECTIVES, "objectives", "[0-9]{1,18}"),
    *configured(PROVIDERS, "provider-accounts", ACCOUNT),
    re_path(
        rf"^provider-accounts/(?P<pk>{ACCOUNT})/close-breaker/?$",
        configuration_views.BreakerClosed.as_view(),
        name="provider-account-close-breaker",
    ),
    re_path(rf"^provider-accounts/(?P<pk>{ACCOUNT})/test/?$", executors.ProviderTried.as_view(), name="provider-account-test"),
    *configured(COMMANDS, "commands", "[A-Za-z0-9_-]{1,64}"),
    *configured(ENDPOINTS, "http-endpoints", "[A-Za-z0-9_-]{1,64}"),
    *configured(PRICES, "model-prices", "[0-9]{1,18}"),
    re_path(r"^executions/?$", record_views.ExecutionList.as_view(), name="executions"),
    re_path(r"^journal/?$", record_views.JournalList.as_view(), name="journal"),
    re_path(r"^journal/(?P<entry_id>[0-9]{1,18})/?$", record_views.JournalEntry.as_view(), name="journal-entry"),
    re_path(r"^journal/seals/?$", seals.SealList.as_view(), name="journal-seals"),
    re_path(r"^journal/verify/?$", seals.JournalVerification.as_view(), name="journal-verify"),
    re_path(r"^journal/verifications/?$", seals.VerificationList.as_view(), name="journal-verifications"),
    re_path(r"^schema/?$", document.Document.as_view(), name="schema"),
    re_path(r"^events/?$", events.Events.as_view(), name="events"),
    re_path(r"^insights/?$", record_views.InsightList.as_view(), name="insights"),
    re_path(r"^celebrations/?$", record_views.CelebrationList.as_view(), name="celebrations"),
]
