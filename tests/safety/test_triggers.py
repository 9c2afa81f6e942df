"""The database itself refuses to change the journal."""

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from safety import audit, triggers
from safety.models import AuditEntry, JournalIsAppendOnly

pytestmark = pytest.mark.django_db(transaction=True)

_THIRD = {"sqlite": "replace", "postgresql": "truncate"}


def all_triggers() -> list[str]:
    kinds = ("delete", "update", _THIRD[connection.vendor])
    return sorted(f"safety_{table}_no_{kind}" for table in ("auditentry", "auditseal") for kind in kinds)


@pytest.fixture
def entry(now) -> int:
    with transaction.atomic():
        return audit.record([audit.Entry("test.thing.done", nova_id="torch", reason="as it was")], now=now)[0]


def statements() -> list[str]:
    both = [
        "UPDATE safety_auditentry SET reason = 'better'",
        "DELETE FROM safety_auditentry",
        "DELETE FROM safety_auditentry WHERE id = 0 OR nova_id = 'torch'",
    ]
    if connection.vendor == "postgresql":
        return [
            *both,
            "TRUNCATE safety_auditentry",
            "SET session_replication_role = replica; DELETE FROM safety_auditentry",
        ]
    return [*both, "REPLACE INTO safety_auditentry SELECT * FROM safety_auditentry"]


def test_raw_sql_can_neither_change_nor_delete_an_entry(entry):
    for statement in statements():
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    assert AuditEntry.objects.values_list("reason", flat=True).get(id=entry) == "as it was"


def test_the_model_refuses_too(entry):
    row = AuditEntry.objects.get(id=entry)
    for attempt in (row.save, row.delete, AuditEntry.objects.all().delete, lambda: AuditEntry.objects.update(reason="")):
        with pytest.raises(JournalIsAppendOnly):
            attempt()


def test_a_missing_trigger_is_named_and_put_back():
    assert triggers.missing() == []
    triggers.remove()
    assert triggers.missing() == all_triggers()
    triggers.install()
    triggers.install()
    assert triggers.missing() == []


def test_migrate_puts_the_triggers_back(entry):
    triggers.remove()
    call_command("migrate", verbosity=0)
    assert triggers.missing() == []
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("DELETE FROM safety_auditentry")
