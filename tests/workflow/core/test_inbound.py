"""Inbound entries: what is accepted, how it is read, and why the rest is refused."""

import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow.core.inbound import AlertRequest, Rejection, SignalRequest, WorkRequest, parse_entry
from workflow.core.work import Priority, WorkType

LONG = b"x" * (64 * 1024)


def parse(stream_kind="work_queue", owner="", /, **fields):
    raw = {name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in fields.items()}
    return parse_entry(stream_kind, raw, owner)


def work(**fields):
    request = parse(**({"title": "Write the report"} | fields))
    assert isinstance(request, WorkRequest), request
    return request


def reason(stream_kind="work_queue", owner="", /, **fields):
    rejection = parse(stream_kind, owner, **({"title": "Write the report"} | fields))
    assert isinstance(rejection, Rejection), rejection
    return rejection.reason


# -- accepted ------------------------------------------------------------------------------------------------------------------


def test_a_title_is_all_that_work_needs():
    request = work()
    assert request.title == "Write the report"
    assert (request.description, request.nova_id, request.team, request.executor, request.action) == ("", "", "", "", "")
    assert (request.priority, request.work_type, request.max_attempts) == (Priority.MEDIUM, WorkType.REQUESTED, 3)
    assert (request.estimated_duration, request.dependencies, request.metadata) == (timedelta(0), (), {})
    assert request.fields == {"title": "Write the report"}


def test_every_field_is_read():
    request = work(
        description="At length.",
        priority="HIGH",
        work_type="Strategic",
        estimated_duration="1h30m",
        dependencies="TORCH-1-aaaaaa, TORCH-1-bbbbbb,TORCH-1-aaaaaa",
        metadata='{"page": 7}',
        nova_id="Torch",
        team="builders",
        executor="builtin",
        action="analyze_streams",
        message_id="m-1",
        sender="echo",
        max_attempts="5",
        event_id="abc-1",
    )
    assert request.description == "At length."
    assert (request.priority, request.work_type) == (Priority.HIGH, WorkType.STRATEGIC)
    assert request.estimated_duration == timedelta(minutes=90)
    assert request.dependencies == ("TORCH-1-aaaaaa", "TORCH-1-bbbbbb")
    assert request.metadata == {"page": 7}
    assert (request.nova_id, request.team) == ("torch", "builders")
    assert (request.executor, request.action) == ("builtin", "analyze_streams")
    assert (request.message_id, request.sender, request.event_id, request.max_attempts) == ("m-1", "echo", "abc-1", 5)


@pytest.mark.parametrize("name", ["nova_id", "assignee", "assigned_to"])
def test_the_addressee_may_be_called_by_any_of_its_names(name):
    assert work(**{name: "echo"}).nova_id == "echo"


@pytest.mark.parametrize(
    ("text", "priority"), [("critical", "critical"), (" Low ", "low"), ("MEDIUM", "medium"), ("", "medium")]
)
def test_priorities_are_read_in_any_case_and_missing_means_medium(text, priority):
    assert work(priority=text).priority == priority


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("900", 900),
        ("0", 0),
        ("1.5", 1.5),
        ("15m", 900),
        ("15 min", 900),
        ("1h30m", 5400),
        ("2d", 172800),
        ("90s", 90),
        ("1d2h3m4s", 93784),
        ("PT15M", 900),
        ("pt1h", 3600),
        ("P1DT2H", 93600),
        ("P2W", 1209600),
        ("PT0.5S", 0.5),
    ],
)
def test_durations_are_read_in_their_forms(text, seconds):
    assert work(estimated_duration=text).estimated_duration == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["soon", "-5", "1e3", "P", "PT", "15x", "m15", "nan", "inf", "h", "1h 2d", "１５"])
def test_a_duration_that_can_not_be_understood_is_refused(text):
    assert "is not understood; give seconds, 15m, 1h30m, 2d or PT15M." in reason(estimated_duration=text)


@pytest.mark.parametrize("text", ["400d", "999999999", "999999999w", "P999999999W", "999999999d"])
def test_a_duration_longer_than_a_year_is_refused(text):
    assert reason(estimated_duration=text)


def test_dependencies_may_be_a_json_list():
    assert work(dependencies='["TORCH-1-aaaaaa", "TORCH-1-bbbbbb"]').dependencies == ("TORCH-1-aaaaaa", "TORCH-1-bbbbbb")
    assert work(dependencies="[]").dependencies == work(dependencies=" , ").dependencies == ()


def test_unknown_fields_are_kept_in_the_metadata_beside_what_was_given():
    assert work(colour="blue", metadata='{"page": 7}').metadata == {"page": 7, "colour": "blue"}
    assert work(page="8", metadata='{"page": 7}').metadata == {"page": 7, "field_page": "8"}


def test_a_title_of_several_lines_becomes_one():
    assert work(title="  Write\nthe\treport ").title == "Write the report"


def test_text_beyond_ascii_is_welcome():
    assert work(title="Bericht für 東京 🎉").title == "Bericht für 東京 🎉"


@pytest.mark.parametrize(
    ("stream_kind", "fields", "kind"),
    [
        ("work_queue", {"title": "x"}, WorkRequest),
        ("task_todo", {"title": "x"}, WorkRequest),
        ("priority_alerts", {"title": "x"}, AlertRequest),
        ("priority_alerts", {"message": "the fence is down"}, AlertRequest),
        ("coordination", {"title": "x"}, WorkRequest),
        ("coordination", {"message": "hello"}, SignalRequest),
        ("coordination", {"title": " ", "message": "hello"}, SignalRequest),
        ("work_queue", {"title": "x", "type": "alert"}, AlertRequest),
        ("work_queue", {"type": "SIGNAL"}, SignalRequest),
        ("priority_alerts", {"type": "signal", "title": "x"}, SignalRequest),
        ("priority_alerts", {"type": "work_item", "title": "x"}, WorkRequest),
        ("coordination", {"type": "alert", "title": "x"}, AlertRequest),
        ("coordination", {"type": "greeting"}, SignalRequest),
        ("priority_alerts", {"type": "outage", "title": "x"}, AlertRequest),
    ],
)
def test_the_kind_is_the_type_s_or_else_the_stream_s(stream_kind, fields, kind):
    assert type(parse(stream_kind, **fields)) is kind


def test_an_alert_without_a_title_is_named_after_its_message():
    alert = parse("priority_alerts", message="The fence is down\nall of it")
    assert isinstance(alert, AlertRequest)
    assert alert.title == "The fence is down"
    assert alert.description == "The fence is down\nall of it"
    assert alert.work_type == WorkType.ALERT


def test_a_type_that_is_not_ours_is_kept():
    alert = parse("priority_alerts", type="outage", title="x")
    assert isinstance(alert, AlertRequest)
    assert alert.fields["type"] == "outage"


def test_work_on_a_nova_s_own_stream_is_for_that_nova():
    request = parse("coordination", "torch", title="x")
    assert isinstance(request, WorkRequest)
    assert request.nova_id == "torch"


def test_a_signal_keeps_its_fields_and_its_stream_says_whose_it_is():
    signal = parse("coordination", "torch", message="hello", sender="echo", nova_id="echo", priority="High")
    assert isinstance(signal, SignalRequest)
    assert (signal.nova_id, signal.sender, signal.priority) == ("torch", "echo", Priority.HIGH)
    assert signal.fields["message"] == "hello"


@pytest.mark.parametrize(("text", "priority"), [("", None), ("background", None), ("low", Priority.LOW)])
def test_a_signal_may_be_of_no_or_of_background_priority(text, priority):
    signal = parse("coordination", message="hello", priority=text)
    assert isinstance(signal, SignalRequest)
    assert signal.priority == priority


def test_fields_and_entries_may_be_as_long_as_allowed():
    assert len(work(description=LONG).description) == 64 * 1024
    assert isinstance(parse(title="x", a=LONG, b=LONG, c=LONG[:-100]), WorkRequest)
    assert isinstance(parse(**{"title": "x"} | {f"field{number}": "" for number in range(63)}), WorkRequest)


# -- refused -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"title": ""}, "The title is missing or empty; give the work a title of 1 to 500 characters."),
        ({"title": " \n "}, "The title is missing or empty; give the work a title of 1 to 500 characters."),
        ({"title": "x" * 501}, "The title has 501 characters; 500 are allowed. Put the rest into the description."),
        ({"priority": "urgent"}, "The priority 'urgent' is not known; give critical, high, medium or low, or none for medium."),
        ({"priority": "background"}, "The priority 'background' is not known"),
        ({"work_type": "fun"}, "The work_type 'fun' is not known; give one of requested, alert,"),
        ({"description": LONG + b"x"}, "The field 'description' has 65,537 bytes; 65,536 are allowed."),
        ({"a": LONG, "b": LONG, "c": LONG, "d": LONG}, "bytes; 262,144 are allowed."),
        ({f"field{number}": "" for number in range(64)}, "The entry has 65 fields; 64 are allowed."),
        ({"description": b"a\0b"}, "The field 'description' contains a NUL character, which can't be stored;"),
        ({"na\0me": b"x"}, "The field 'na?me' contains a NUL character"),
        ({"title": b"\xff\xfe"}, "The field 'title' is not UTF-8 text."),
        ({"description": b"\xed\xa0\x80"}, "The field 'description' is not UTF-8 text."),
        ({"nova_id": "No Such!"}, "'no such!' can't be a nova_id: lower-case letters, digits, - and _, at most 63."),
        ({"nova_id": "torch", "assignee": "echo"}, "The entry names several Novas (echo, torch); name one."),
        ({"team": "a b"}, "The field team is 'a b'; allowed are letters, digits, - and _, at most 64."),
        (
            {"executor": "rm -rf"},
            "The field executor is 'rm -rf'; allowed are lower-case letters, digits, - and _, at most 32.",
        ),
        ({"action": "a b"}, "The field action is 'a b'; allowed are"),
        ({"message_id": "x" * 201}, "The field message_id has 201 characters; 200 are allowed."),
        ({"sender": "x" * 129}, "The field sender has 129 characters; 128 are allowed."),
        ({"max_attempts": "0"}, "The field max_attempts is '0'; give a whole number from 1 to 20."),
        ({"max_attempts": "many"}, "give a whole number from 1 to 20."),
        ({"max_attempts": "9" * 5000}, "give a whole number from 1 to 20."),
        ({"dependencies": "a b"}, "The dependency 'a b' can't be a task id."),
        ({"dependencies": "[1]"}, "The field dependencies is not a list of task ids;"),
        ({"dependencies": "[oops"}, "The field dependencies is not valid JSON."),
        (
            {"dependencies": ",".join(f"T-{number}" for number in range(101))},
            "The entry has 101 dependencies; 100 are allowed.",
        ),
        ({"metadata": "[]"}, "The field metadata is not a JSON object."),
        ({"metadata": "{"}, "The field metadata is not valid JSON."),
        ({"metadata": "[" * 60_000}, "The field metadata is not valid JSON."),
        (
            {"metadata": '{"a":' * 40 + "1" + "}" * 40},
            "The field metadata contains more than 32 levels, which can't be stored.",
        ),
        ({"metadata": '{"a": NaN}'}, "The field metadata contains a number that is not finite, which can't be stored."),
        ({"metadata": '{"a": 1e999}'}, "a number that is not finite"),
        ({"metadata": '{"a": 99999999999999999999}'}, "a whole number of more than 64 bits"),
        ({"metadata": '{"a": ["\\u0000"]}'}, "The field metadata contains a NUL character, which can't be stored."),
        ({"metadata": '{"\\ud800": 1}'}, "half of a surrogate pair"),
    ],
)
def test_a_broken_entry_is_refused_with_a_sentence(fields, text):
    assert text in reason(**fields)


def test_an_entry_without_fields_is_refused():
    assert parse_entry("work_queue", {}) == Rejection("The entry has no fields.")


def test_work_that_names_another_nova_than_its_stream_is_refused():
    assert "is on the stream of torch, but names echo" in reason("coordination", "torch", nova_id="echo")


def test_a_signal_of_unknown_priority_is_refused():
    assert "The priority 'urgent' is not known" in reason("coordination", type="signal", priority="urgent")


def test_a_rejection_says_whom_to_answer_even_if_the_entry_is_unreadable():
    rejection = parse(title=b"\xff", sender=b"echo", event_id=b"e-1")
    assert isinstance(rejection, Rejection)
    assert (rejection.sender, rejection.event_id, rejection.fields) == ("echo", "e-1", {})
    rejection = parse(title="", sender="echo", type="work_item")
    assert isinstance(rejection, Rejection)
    assert (rejection.sender, rejection.kind, rejection.fields["sender"]) == ("echo", "work_item", "echo")


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    st.sampled_from(("work_queue", "priority_alerts", "coordination", "task_todo")),
    st.sampled_from(("", "torch")),
    st.dictionaries(
        st.sampled_from(
            (
                b"title",
                b"type",
                b"priority",
                b"metadata",
                b"dependencies",
                b"estimated_duration",
                b"nova_id",
                b"max_attempts",
                b"x",
            )
        )
        | st.binary(max_size=8),
        st.binary(max_size=40)
        | st.text(max_size=20).map(str.encode)
        | st.sampled_from((b"alert", b"signal", b"high", b"{}", b"[]")),
        max_size=8,
    ),
)
def test_no_entry_whatever_crashes_the_reader_or_yields_what_can_not_be_stored(stream_kind, nova_id, raw):
    found = parse_entry(stream_kind, raw, nova_id)
    if isinstance(found, Rejection):
        assert found.reason.endswith((".", "medium."))
        assert "\0" not in found.reason + found.sender
    else:
        json.dumps(found.fields).encode()
        assert "\0" not in "".join(found.fields.values())
        if isinstance(found, WorkRequest):
            assert 1 <= len(found.title) <= 500
            json.dumps(found.metadata, allow_nan=False)
