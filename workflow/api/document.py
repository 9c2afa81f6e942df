"""The OpenAPI document's address."""

from typing import Any, ClassVar

from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request
from rest_framework.response import Response


class Document(SpectacularAPIView):
    """GET: the OpenAPI document. It is the same for everybody and costs a second, so a process makes it once."""

    schema = None  # it does not tell of itself
    _made: ClassVar[Any] = None

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        if Document._made is None:
            Document._made = super().get(request, *args, **kwargs).data  # type: ignore[no-untyped-call]
        return Response(Document._made)
