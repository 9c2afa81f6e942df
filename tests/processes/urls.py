from django.urls import path

from reporting import health

urlpatterns = [path("healthz", health.healthz), path("readyz", health.readyz)]
