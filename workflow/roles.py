"""Who may do what: the five roles, as groups of Django permissions (design section 5). A migration brings them into being.

Operators stop anything and resume what operators paused; safety officers resume halts and emergency stops and edit policies.
"""

from collections.abc import Mapping

_LOOK = frozenset(
    f"{app}.view_{name}"
    for app, names in {
        "workflow": (
            "nova", "novastate", "personality", "objective", "task", "execution", "inboxmessage", "streamcursor", "lease",
            "halt", "haltconfirmation", "approval", "commandtemplate", "httpendpoint", "modelprice", "novausage",
        ),
        "safety": ("safetypolicy", "safetystate", "safetyincident", "candidateverdict", "provideraccount"),
        "reporting": ("alertrule", "alertevent", "report", "reportschedule"),
    }.items()
    for name in names
) | {"workflow.hear_events"}  # fmt: skip
_OPERATE = frozenset(
    {
        "workflow.add_task", "workflow.change_task", "workflow.add_objective", "workflow.change_objective",
        "workflow.change_nova", "workflow.order_stop", "workflow.lift_pause", "workflow.change_approval",
        "workflow.add_inboxmessage", "safety.change_safetyincident",
        "reporting.add_report", "reporting.add_reportschedule", "reporting.change_reportschedule",
        "reporting.view_reportlink", "reporting.add_reportlink", "reporting.change_reportlink",
    }
)  # fmt: skip
_GUARD = frozenset(
    {
        "workflow.add_commandtemplate", "workflow.change_commandtemplate", "workflow.add_httpendpoint",
        "workflow.change_httpendpoint", "workflow.add_modelprice", "workflow.change_modelprice",
        "workflow.lift_halt", "workflow.add_nova", "workflow.add_personality", "workflow.change_personality",
        "safety.add_safetypolicy", "safety.change_safetypolicy", "safety.add_provideraccount", "safety.change_provideraccount",
        "safety.view_apikey", "safety.add_apikey", "safety.change_apikey", "safety.view_hookevent", "safety.view_hooksession",
        "reporting.add_alertrule", "reporting.change_alertrule", "reporting.add_alertchannel", "reporting.change_alertchannel",
        "reporting.view_alertchannel", "reporting.view_alertdelivery", "reporting.change_alertdelivery",
    }
)  # fmt: skip
_AUDIT = frozenset(
    {
        "safety.view_auditentry", "safety.view_auditseal", "safety.view_verificationrun", "safety.add_verificationrun",
        "safety.view_hookevent", "safety.view_hooksession", "safety.view_apikey", "safety.view_outboxentry",
        "auth.view_user", "auth.view_group", "reporting.view_alertchannel", "reporting.view_alertdelivery",
    }
)  # fmt: skip
_ADMINISTER = frozenset(f"auth.{verb}_{name}" for verb in ("add", "change", "view") for name in ("user", "group"))

ROLES: Mapping[str, frozenset[str]] = {
    "viewer": _LOOK,
    "operator": _LOOK | _OPERATE,
    "safety officer": _LOOK | _OPERATE | _GUARD,
    "auditor": _LOOK | _AUDIT,
    "admin": _LOOK | _OPERATE | _GUARD | _AUDIT | _ADMINISTER,
}
