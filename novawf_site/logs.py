"""How logs are written: structured, one line an event, with nothing that belongs into no log."""

from typing import Any

import structlog


def logging_by(level: str, form: str) -> dict[str, Any]:
    """Set up structlog and give Django's LOGGING; `form` is json or console."""
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *chain,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            # a probe that is refused has said so to whoever asked, and asks again soon
            "no_probes": {
                "()": "django.utils.log.CallbackFilter",
                "callback": lambda record: "/readyz" not in str(record.__dict__),
            }
        },
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.dev.ConsoleRenderer() if form == "console" else structlog.processors.JSONRenderer(),
                ],
                "foreign_pre_chain": chain,
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "django_structlog": {"level": "WARNING"},
            "django_structlog.middlewares.request": {"filters": ["no_probes"]},
            "django.request": {"filters": ["no_probes"]},
            "django-q": {"level": "WARNING"},
            # addresses, and below that what is said to models, belong into no log
            **{name: {"level": "WARNING"} for name in ("httpx2", "httpcore2", "openai", "anthropic")},
            "apprise": {"level": "CRITICAL"},  # its warnings name addresses, which hold tokens
            "mcp": {"level": "WARNING"},
        },
    }
