"""Whether single keys act as shortcuts, kept in a cookie: whoever dictates can switch them off (WCAG 2.1.4)."""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from reporting.pages.theme import YEAR


@require_POST
def choose_keys(request: HttpRequest) -> HttpResponse:
    """Remember the choice, and go back to the page."""
    back = request.POST.get("next", "/")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure()):
        back = "/"
    response = HttpResponseRedirect(back)
    if request.POST.get("keys") == "off":
        response.set_cookie("keys", "off", max_age=YEAR, samesite="Lax", httponly=True, secure=request.is_secure())
    else:
        response.delete_cookie("keys", samesite="Lax")
    return response
