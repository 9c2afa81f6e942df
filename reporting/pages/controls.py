"""The operator's controls on a Nova and on the fleet: each asks for a reason, then calls the services that the admin calls."""

from datetime import datetime

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from reporting.fragments import demand
from reporting.pages.confirm import Outcome, Question, confirm
from workflow import halts
from workflow.models import Halt, Nova, NovaState
from workflow.nova_verbs import NOVA_VERBS, ORDER_STOP, carry_out, right_for
from workflow.services import STOPPED

OFFERED = ("pause", "resume", "drain", "wake", "halt", "kill")
STOP_ALL = "STOP"


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def control_nova(request: HttpRequest, nova_id: str, verb: str) -> HttpResponse:
    """Ask why, then carry a verb out for one Nova."""
    nova = Nova.objects.select_related("state").filter(pk=nova_id).first()
    if nova is None or verb not in OFFERED:
        raise Http404
    law = NOVA_VERBS[verb]
    demand(request, "workflow.view_nova")
    demand(request, right_for(verb, [nova_id]) or "workflow.change_nova")
    page = reverse("nova", args=[nova_id])

    def act(reason: str, now: datetime) -> Outcome:
        (result,) = carry_out(verb, [nova_id], reason=reason, now=now)
        if result.problem:
            return Outcome(f"{nova_id} can't {verb}: {result.problem}. Nothing was changed.", page, messages.ERROR)
        if not result.changed:
            return Outcome(f"{nova_id} needed no change: it is {result.mode}.", page, messages.INFO)
        halt = halts.standing_order(nova_id) if verb in ("halt", "kill") else None
        return Outcome(f"{nova_id} {law.past}.", reverse("order", args=[halt.halt_id]) if halt else page)

    state = nova.state
    facts = [("Now", f"{state.mode}{f': {state.mode_reason}' if state.mode_reason else ''}")]
    if state.tasks_in_flight:
        facts.append(("In flight", f"{state.tasks_in_flight} tasks"))
    return confirm(request, Question(f"{law.title} {nova_id}", law.title, law.effect, page, facts, law.danger), act)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def stop_all(request: HttpRequest) -> HttpResponse:
    """Ask why and for the word STOP, then halt the whole fleet."""
    demand(request, ORDER_STOP)

    def act(reason: str, now: datetime) -> Outcome:
        halt = halts.order(Halt.Kind.HALT, Halt.Scope.FLEET, reason=reason, now=now)
        text = "The fleet was ordered to halt. It is stopped when every Nova below is confirmed."
        return Outcome(text, reverse("order", args=[halt.pk]), messages.WARNING)

    running = NovaState.objects.exclude(mode__in=[*STOPPED, NovaState.Mode.ARCHIVED]).count()
    facts = [("Running now", f"{running} Nova{'' if running == 1 else 's'}"), ("Resumed by", "a safety officer")]
    question = Question(
        "Stop all Novas", "Stop all", NOVA_VERBS["halt"].effect, reverse("fleet"), facts, danger=True, word=STOP_ALL
    )
    return confirm(request, question, act)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def lift_order(request: HttpRequest, halt_id: int) -> HttpResponse:
    """Ask why, then let the Novas of an order go on."""
    halt = Halt.objects.filter(pk=halt_id).first()
    if halt is None:
        raise Http404
    under = NovaState.objects.filter(nova__halts__halt=halt)
    demand(request, halts.right_to_resume(list(under.values_list("mode", flat=True).distinct())))
    page = reverse("order", args=[halt_id])

    def act(reason: str, now: datetime) -> Outcome:
        halts.lift(halt_id, reason=reason, now=now)
        return Outcome("The order is lifted; its Novas go on, staggered.", page)

    facts = [("Ordered by", halt.requested_by), ("Because", halt.reason), ("Novas", f"{under.count()}")]
    effect = "Lets the Novas of this order go on, one after the other."
    return confirm(request, Question(f"Lift order {halt_id}", "Lift", effect, page, facts), act)
