"""Bulk statements against the real database: every kind of value, in order, found by keys, and nothing beside."""

from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from safety import bulk
from safety.models import AuditEntry, FleetFact, Observation, OutboxEntry, SafetyIncident, SafetyState
from tests.factories import NOW

pytestmark = pytest.mark.django_db

STATE = (
    "nova_id",
    "is_safe",
    "safety_level",
    "mechanism",
    "reason",
    "measured",
    "cooldowns_in_a_row",
    "since",
    "hooks_expected",
)
OBSERVATION = ("nova_id", "kind", "detail", "at", "count")


def state(nova_id: str, **values: Any) -> tuple[Any, ...]:
    """Give a row of STATE."""
    defaults = {
        "is_safe": True, "safety_level": "normal", "mechanism": "", "reason": "", "measured": None,
        "cooldowns_in_a_row": 0, "since": None, "hooks_expected": False,
    }  # fmt: skip
    return (nova_id, *(defaults | values).values())


def insert_states(*rows: tuple[Any, ...], **options: Any) -> list[tuple[Any, ...]]:
    columns = (*STATE, "cooldown_reason", "quarantine_reason")
    return bulk.insert(SafetyState, columns, [(*row, "", "") for row in rows], **options)


def insert_observations(*rows: tuple[Any, ...], **options: Any) -> list[tuple[Any, ...]]:
    return bulk.insert(Observation, OBSERVATION, rows, **options)


# -- values


@pytest.mark.parametrize("returning", ["", "nova_id"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reason", "plain"),
        ("reason", "'); DROP TABLE safety_safetystate; -- %s %(x)s {y} \\ \""),
        ("reason", "Grüße, 世界 🔥\n\ttab"),
        ("reason", ""),
        ("is_safe", False),
        ("measured", None),
        ("measured", 0.1),
        ("measured", 1e300),
        ("cooldowns_in_a_row", 2_000_000_000),
        ("since", None),
        ("since", NOW),
        ("since", NOW.replace(microsecond=123456)),
        ("since", NOW.replace(microsecond=120000)),
    ],
)
def test_a_value_comes_back_as_it_went_in(name, value, returning):
    insert_states(state("echo", **{name: value}), returning=returning)
    assert getattr(SafetyState.objects.get(), name) == value
    bulk.update(SafetyState, ("nova_id",), (name,), [("echo", value)], returning=returning and "t.nova_id")
    assert getattr(SafetyState.objects.get(), name) == value


@pytest.mark.parametrize("returning", ["", "id"])
def test_an_instant_is_stored_as_the_orm_stores_it_whatever_its_zone(returning):
    berlin = NOW.astimezone(timezone(timedelta(hours=1)))
    insert_observations(("echo", "tool_use", "", berlin, 1), ("echo", "tool_use", "", NOW + timedelta(microseconds=1), 1),
                        returning=returning)  # fmt: skip
    assert Observation.objects.filter(at=NOW).count() == 1
    assert Observation.objects.filter(at__gt=NOW).count() == 1
    assert Observation.objects.order_by("at").first() == Observation.objects.get(at=NOW)


@pytest.mark.parametrize("value", [{"a": [1, None, "ü\"'"]}, [], {}, "text", 7, 0.5, True, None])
@pytest.mark.parametrize("returning", ["", "name"])
def test_a_json_value_comes_back_as_it_went_in(value, returning):
    bulk.insert(FleetFact, ("name", "value", "observed_at"), [("fact", bulk.json_text(value), NOW)], returning=returning)
    assert FleetFact.objects.get().value == value


def test_json_text_writes_instants_as_iso_8601():
    assert bulk.json_text({"at": NOW, "ü": None}) == '{"at":"2026-11-20T12:00:00+00:00","ü":null}'


@pytest.mark.parametrize(
    ("raw", "instant"),
    [
        ("2026-11-20 12:00:00", NOW),
        ("2026-11-20 12:00:00.000250", NOW.replace(microsecond=250)),
        (NOW, NOW),
        (None, None),
    ],
)
def test_an_instant_is_read_from_a_raw_row(raw, instant):
    assert bulk.instant(raw) == instant


def test_an_instant_read_by_raw_sql_is_what_the_orm_wrote():
    FleetFact.objects.create(name="fact", value=1, observed_at=NOW.replace(microsecond=1000))
    with connection.cursor() as cursor:
        cursor.execute("SELECT observed_at FROM safety_fleetfact WHERE observed_at = %s", [NOW.replace(microsecond=1000)])
        assert [bulk.instant(row[0]) for row in cursor.fetchall()] == [NOW.replace(microsecond=1000)]


# -- insert


@pytest.mark.parametrize("size", [1, 2, 500])
def test_rows_are_inserted_in_order_in_one_statement(size):
    rows = [("echo", "tool_use", "", NOW + timedelta(seconds=number), number) for number in range(size)]
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        insert_observations(*rows)
    assert sum("safety_observation" in query["sql"] for query in captured.captured_queries) == 1
    assert list(Observation.objects.order_by("id").values_list("count", flat=True)) == list(range(size))


def test_nothing_to_do_costs_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert insert_observations() == []
        assert bulk.insert_numbered(Observation, OBSERVATION, []) == []
        assert bulk.update(SafetyState, ("nova_id",), ("reason",), []) == []
        assert bulk.update_counted(SafetyState, ("nova_id",), ("reason",), []) == 0


def test_what_was_inserted_may_be_given_back():
    rows = insert_states(state("echo"), state("helix", measured=2.5), returning="nova_id, measured")
    assert sorted(rows) == [("echo", None), ("helix", 2.5)]


def test_a_conflict_is_an_error_unless_it_was_thought_of():
    insert_states(state("echo", reason="first"))
    with pytest.raises(IntegrityError), transaction.atomic():
        insert_states(state("helix"), state("echo", reason="second"))
    assert list(SafetyState.objects.values_list("nova_id", "reason")) == [("echo", "first")]
    insert_states(state("echo", reason="second"), state("helix"), on_conflict="(nova_id) DO NOTHING")
    assert dict(SafetyState.objects.values_list("nova_id", "reason")) == {"echo": "first", "helix": ""}


@pytest.mark.parametrize("returning", ["", "nova_id"])
def test_a_conflict_may_update_under_a_condition_with_values_of_its_own(returning):
    insert_states(state("echo", measured=1.0), state("helix", measured=9.0))
    clause = "(nova_id) DO UPDATE SET measured = excluded.measured WHERE safety_safetystate.measured < %s"
    given = insert_states(
        state("echo", measured=5.0), state("helix", measured=5.0), state("torch", measured=5.0),
        on_conflict=clause, conflict_values=[4.0], returning=returning,
    )  # fmt: skip
    assert dict(SafetyState.objects.values_list("nova_id", "measured")) == {"echo": 5.0, "helix": 9.0, "torch": 5.0}
    assert sorted(given) == ([("echo",), ("torch",)] if returning else [])


def test_numbered_rows_get_growing_keys_in_their_order():
    columns = ("created_at", "entry_ids")
    first = bulk.insert_numbered(OutboxEntry, columns, [(NOW, f"[{number}]") for number in range(3)])
    second = bulk.insert_numbered(OutboxEntry, columns, [(NOW, f"[{number}]") for number in range(3, 6)])
    keys = first + second
    assert keys == sorted(set(keys))
    assert [OutboxEntry.objects.get(pk=key).entry_ids for key in keys] == [[number] for number in range(6)]


def test_numbered_rows_go_on_where_others_left_off():
    row = OutboxEntry.objects.create(created_at=NOW, entry_ids=[1])
    row.delete()
    (key,) = bulk.insert_numbered(OutboxEntry, ("created_at", "entry_ids"), [(NOW, "[2]")])
    assert key > (row.pk or 0)
    later = OutboxEntry.objects.create(created_at=NOW, entry_ids=[3])
    assert later.pk > key


def test_columns_left_out_are_null_or_get_the_databases_key():
    insert_observations(("echo", "tool_use", "", NOW, 1))
    assert Observation.objects.get().pk is not None
    insert_states(state("echo"))
    assert SafetyState.objects.get().until is None


# -- update


@pytest.fixture
def three():
    insert_states(*(state(nova_id, measured=float(number)) for number, nova_id in enumerate(("echo", "helix", "torch"))))


def measured() -> dict[str, float | None]:
    return dict(SafetyState.objects.values_list("nova_id", "measured"))


def test_rows_are_updated_by_their_keys_and_the_others_left_alone(three):
    assert (
        bulk.update_counted(SafetyState, ("nova_id",), ("measured", "reason"), [("echo", 7.0, "a"), ("torch", None, "b")]) == 2
    )
    assert measured() == {"echo": 7.0, "helix": 1.0, "torch": None}
    assert SafetyState.objects.get(nova_id="helix").reason == ""


def test_a_row_found_by_several_keys_must_match_them_all(three):
    rows = [("echo", 0.0, "hit"), ("helix", 5.0, "miss"), ("nobody", 1.0, "miss")]
    assert bulk.update_counted(SafetyState, ("nova_id", "measured"), ("reason",), rows) == 1
    assert SafetyState.objects.get(reason="hit").nova_id == "echo"
    assert not SafetyState.objects.filter(reason="miss").exists()


def test_an_update_may_ask_for_more_than_the_keys(three):
    rows = [(nova_id, "calm") for nova_id in ("echo", "helix", "torch")]
    assert bulk.update_counted(SafetyState, ("nova_id",), ("reason",), rows, where="t.measured > 0.5") == 2
    assert SafetyState.objects.get(nova_id="echo").reason == ""


@pytest.mark.parametrize("returning", ["", "t.nova_id"])
def test_an_update_may_compute_from_the_stored_and_the_given_row(three, returning):
    rows = [("echo", "x", 10.0), ("helix", "y", 20.0)]
    bulk.update(
        SafetyState, ("nova_id",), ("reason",), rows, given=("measured",),
        extra_set="measured = t.measured + {measured}, "
        "mechanism = CASE WHEN {measured} > 15 THEN {reason} ELSE t.mechanism END",
        returning=returning,
    )  # fmt: skip
    assert measured() == {"echo": 10.0, "helix": 21.0, "torch": 2.0}
    assert list(SafetyState.objects.order_by("nova_id").values_list("reason", "mechanism")) == [("x", ""), ("y", "y"), ("", "")]


def test_an_update_gives_back_the_rows_that_matched(three):
    rows = [("echo", 5.0), ("nobody", 5.0)]
    given = bulk.update(SafetyState, ("nova_id",), ("measured",), rows, returning="t.nova_id, t.measured")
    assert given == [("echo", 5.0)]


def test_a_big_update_is_one_statement():
    nova_ids = [f"nova-{number:04d}" for number in range(300)]
    insert_states(*(state(nova_id) for nova_id in nova_ids))
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        assert bulk.update_counted(SafetyState, ("nova_id",), ("measured",), [(nova_id, 1.0) for nova_id in nova_ids]) == 300
    assert sum("safety_safetystate" in query["sql"] for query in captured.captured_queries) == 1


def test_a_big_update_stands_or_falls_as_a_whole():
    insert_states(state("echo"), state("helix"))
    rows = [("echo", "fine"), ("helix", None)]
    with pytest.raises(IntegrityError), transaction.atomic():
        bulk.update(SafetyState, ("nova_id",), ("reason",), rows)
    assert not SafetyState.objects.filter(reason="fine").exists()


# -- membership


@pytest.mark.parametrize("wanted", [[], ["echo"], ["echo", "torch", "nobody", "echo"], [f"nova-{n}" for n in range(3000)]])
def test_membership_finds_what_is_in_the_list_however_long_it_is(three, wanted):
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT nova_id FROM safety_safetystate WHERE {bulk.membership('nova_id')} ORDER BY nova_id",
            [bulk.members(wanted)],
        )
        found = [row[0] for row in cursor.fetchall()]
    assert found == sorted({"echo", "helix", "torch"} & set(wanted))


def test_members_may_hold_any_characters():
    names = ['a "quoted" one', "back\\slash", "{braces,comma}", "line\nbreak", "it's", "é", ""]
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(
                f"SELECT {bulk.membership('value')} FROM (SELECT CAST(%s AS text) AS value) v", [bulk.members(names), name]
            )
            assert cursor.fetchone()[0]


def test_membership_of_integers_compares_integers():
    keys = bulk.insert_numbered(OutboxEntry, ("created_at", "entry_ids"), [(NOW, "[]")] * 12)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM safety_outboxentry WHERE {bulk.membership('id', integers=True)}", [bulk.members(keys[:2])]
        )
        assert sorted(row[0] for row in cursor.fetchall()) == keys[:2]


def test_a_column_whose_name_is_a_word_of_sql_is_quoted():
    insert_states(state("echo"))
    bulk.update(SafetyState, ("nova_id",), ("limit", "until"), [("echo", 3.5, NOW)])
    row = SafetyState.objects.get()
    assert (row.limit, row.until) == (3.5, NOW)


def test_a_partial_unique_index_may_be_the_conflict():
    columns = ("nova_id", "mechanism", "status", "reason", "evidence", "opened_at", "last_seen_at", "ended_at")
    row = ("echo", "frosty", "open", "first", "{}", NOW, NOW)
    bulk.insert(SafetyIncident, columns, [(*row, NOW), (*row, None)])
    clause = "(nova_id, mechanism) WHERE ended_at IS NULL DO UPDATE SET reason = 'joined'"
    bulk.insert(SafetyIncident, columns, [(*row, None)], on_conflict=clause)
    assert sorted(SafetyIncident.objects.values_list("reason", flat=True)) == ["first", "joined"]


def test_the_journal_lets_nothing_be_changed_in_bulk_either():
    with transaction.atomic():
        (key,) = bulk.insert_numbered(
            AuditEntry,
            ("created_at", "nova_id", "seq", "actor", "action", "object_type", "object_id", "reason", "request_id", "cause",
             "stream", "personal"),
            [(NOW, "", 0, "test", "safety.test.done", "", "", "", "", "", "", False)],
        )  # fmt: skip
    with pytest.raises(Exception, match="append-only"), transaction.atomic():
        bulk.update(AuditEntry, ("id",), ("actor",), [(key, "somebody else")])
    assert AuditEntry.objects.get().actor == "test"


def test_utc_is_what_is_stored(three):
    bulk.update(SafetyState, ("nova_id",), ("since",), [("echo", NOW.astimezone(timezone(timedelta(hours=-5))))])
    since = SafetyState.objects.get(nova_id="echo").since
    assert since == NOW
    assert since is not None
    assert since.tzinfo is UTC
