"""The system checks name what would make an installation unsafe, and how to mend it."""

import pytest
from django.core.checks import run_checks

from safety import checks


def found(*messages) -> list[str]:
    for message in messages:
        assert message.hint
    return [message.id for message in messages]


def test_the_checks_are_registered(settings):
    settings.DRAGONFLY_URL = "http://nowhere"
    assert "novawf.E003" in [message.id for message in run_checks()]


@pytest.mark.parametrize("secret", ["short", "django-insecure-" + "x" * 40, "change-me-" + "x" * 40])
def test_production_refuses_default_secrets(settings, secret):
    settings.SECRET_KEY = settings.OPERATOR_KEY = secret
    assert found(*checks.check_secrets()) == []
    settings.PRODUCTION = True
    assert found(*checks.check_secrets())[:2] == ["novawf.E001", "novawf.E002"]
    settings.SECRET_KEY = settings.OPERATOR_KEY = "kU3" * 20
    settings.SECRETS_KEY = "Zq8" * 20
    assert found(*checks.check_secrets()) == []


def test_production_misses_the_seals_key(settings):
    settings.SEAL_KEY = ""
    assert found(*checks.check_seal_key()) == []
    settings.PRODUCTION = True
    assert found(*checks.check_seal_key()) == ["novawf.W004"]
    settings.SEAL_KEY = "change-me-" + "x" * 40
    assert found(*checks.check_seal_key()) == ["novawf.E006"]
    settings.SEAL_KEY = "kU3" * 20
    assert found(*checks.check_seal_key()) == []


@pytest.mark.parametrize("key", ["", "short", "change-me-" + "x" * 40, "kU3" * 20])
def test_production_warns_of_a_key_that_secrets_are_not_safe_under(settings, key):
    settings.SECRET_KEY, settings.OPERATOR_KEY, settings.SECRETS_KEY = "kU3" * 20, "pL5" * 20, key
    assert found(*checks.check_secrets()) == []
    settings.PRODUCTION = True
    assert found(*checks.check_secrets()) == ["novawf.W005"]


@pytest.mark.parametrize(
    ("url", "production", "ids"),
    [
        ("redis://:Zk3nQ9@127.0.0.1:18000/0", True, []),
        ("redis://127.0.0.1:18000/0", True, ["novawf.E004"]),
        ("redis://:adapt123@127.0.0.1:18000/0", True, ["novawf.E004"]),
        ("redis://:adapt123@127.0.0.1:18000/0", False, ["novawf.W002"]),
        ("redis://:Zk3nQ9@streams.example:6379/0", False, ["novawf.W003"]),
        ("redis://:Zk3nQ9@streams.example:6379/0", True, ["novawf.E005"]),
        ("rediss://:Zk3nQ9@streams.example:6379/0", True, []),
        ("unix:///run/stream.sock", True, []),
        ("memcached://streams.example", False, ["novawf.E003"]),
    ],
)
def test_the_stream_servers_address_is_looked_at(settings, url, production, ids):
    settings.DRAGONFLY_URL, settings.PRODUCTION = url, production
    assert found(*checks.check_stream_address()) == ids


class _Connection:
    def __init__(self, vendor: str, version: tuple[int, ...]) -> None:
        self.vendor = vendor
        self.Database = type("Library", (), {"sqlite_version_info": version, "sqlite_version": ".".join(map(str, version))})


@pytest.mark.parametrize(
    ("vendor", "version", "production", "ids"),
    [
        ("sqlite", (3, 40, 1), False, ["novawf.W001"]),
        ("sqlite", (3, 51, 3), False, []),
        ("sqlite", (3, 51, 3), True, ["novawf.I001"]),
        ("postgresql", (), True, []),
    ],
)
def test_an_old_or_limiting_sqlite_is_named(settings, monkeypatch, vendor, version, production, ids):
    settings.PRODUCTION = production
    monkeypatch.setattr(checks, "connections", {"default": _Connection(vendor, version)})
    assert found(*checks.check_database()) == ids
