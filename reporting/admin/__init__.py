from reporting.admin import alerts

__all__ = ["alerts"]
