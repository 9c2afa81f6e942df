"""StreamController and its command: the newest entries of a Nova's nine streams."""

import json

import pytest
from django.core.management import CommandError, call_command

from workflow.streams.controller import StreamController

pytestmark = pytest.mark.django_db


def test_the_newest_entries_of_all_nine_streams_are_shown(stream, fleet):
    controller = StreamController("echo", stream)
    assert len(controller.streams) == 9
    for number in range(12):
        stream.call("XADD", "nova.coordination.echo", "*", "title", f"Message {number}", "odd", b"\xff")
    stream.call("XADD", "nova.work.queue", "*", "title", "Anybody")
    found = controller.check_coordination_streams()
    assert set(found) == {"coordination", "work_queue"}
    assert [entry["title"] for entry in found["coordination"]] == [f"Message {number}" for number in range(11, 1, -1)]
    assert found["coordination"][0]["odd"] == "\ufffd"


def test_the_command_prints_them(stream, fleet, capsys):
    stream.call("XADD", "nova.coordination.echo", "*", "title", "Hello")
    call_command("streams", "echo", "--json")
    assert json.loads(capsys.readouterr().out)["coordination"][0]["title"] == "Hello"
    call_command("streams", "echo")
    assert "Hello" in capsys.readouterr().out


def test_the_command_names_an_unknown_nova(stream, fleet):
    with pytest.raises(CommandError, match="nobody"):
        call_command("streams", "nobody")


def test_the_command_says_that_the_server_is_away(fleet, stream_server):
    stream_server.stop()
    with pytest.raises(CommandError, match="could not be reached"):
        call_command("streams", "echo")
