"""Controls of the safety page: close a provider account's breaker, and a drill: would everybody hear a halt?"""

from datetime import datetime

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from reporting.core.safety_looks import BREAKERS
from reporting.fragments import demand
from reporting.pages.confirm import Outcome, Question, confirm
from safety.models import ProviderAccount
from workflow import halts
from workflow.breakers import close_breaker
from workflow.models import Halt, NovaState
from workflow.nova_verbs import ORDER_STOP


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def control_breaker(request: HttpRequest, slug: str) -> HttpResponse:
    """Ask why, then let the calls of an account pass again."""
    demand(request, "safety.change_provideraccount")
    account = ProviderAccount.objects.filter(pk=slug).first()
    if account is None:
        raise Http404
    back = f"{reverse('safety')}#breakers"

    def act(reason: str, now: datetime) -> Outcome:
        if close_breaker(slug, reason=reason, now=now):
            return Outcome(f"The breaker of {slug} is closed: calls pass again.", back)
        return Outcome(f"The breaker of {slug} needed no change: it is closed.", back, messages.INFO)

    facts = [("Breaker", BREAKERS[account.breaker].word)]
    if account.breaker_reason:
        facts.append(("Because", account.breaker_reason))
    effect = "Lets calls pass again before the breaker would. If the provider still fails, it opens again."
    return confirm(request, Question(f"Close the breaker of {slug}", "Close the breaker", effect, back, facts), act)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def drill(request: HttpRequest) -> HttpResponse:
    """Ask why, then ask every Nova to show that it would hear a halt."""
    demand(request, ORDER_STOP)

    def act(reason: str, now: datetime) -> Outcome:
        asked = halts.order(Halt.Kind.HALT, Halt.Scope.FLEET, reason=reason, now=now, drill=True)
        return Outcome("The drill runs. Nobody is stopped.", reverse("order", args=[asked.pk]))

    novas = NovaState.objects.exclude(mode=NovaState.Mode.ARCHIVED).count()
    effect = "Asks every Nova to show that it would hear a halt, and measures how long that takes. Nobody is stopped."
    question = Question("Halt drill", "Run the drill", effect, reverse("safety"), [("Novas asked", f"{novas}")])
    return confirm(request, question, act)
