"""`manage.py doctor` against the test server, one that refuses things, and none."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from safety.stream_client import StreamClient
from workflow.hosting.examination import TRIALS, Examination


def doctor(*arguments: str) -> tuple[int, str]:
    """Run the command; give its exit code and what it printed."""
    output = StringIO()
    try:
        call_command("doctor", *arguments, stdout=output)
    except SystemExit as end:
        return int(str(end.code)), output.getvalue()
    return 0, output.getvalue()


@pytest.mark.django_db
class TestDoctor:
    def test_finds_all_that_we_need_and_leaves_no_key_behind(self, stream_url: str, stream: StreamClient) -> None:
        code, text = doctor("--stream", stream_url)
        assert (code, "All that we need is there." in text) == (0, True), text
        assert stream.call("DBSIZE") == 0

    def test_speaks_json_without_secrets(self, stream_url: str) -> None:
        code, text = doctor("--stream", stream_url, "--json")
        report: dict[str, Any] = json.loads(text)
        assert code == 0
        assert report["ok"] is True
        assert report["versions"]["valkey_version"]
        assert {finding["command"] for finding in report["findings"]} >= {trial[0] for trial in TRIALS}
        password = stream_url.partition("://:")[2].partition("@")[0]
        assert password not in text

    def test_names_what_a_server_refuses(self, stream_url: str, stream: StreamClient) -> None:
        stream.call("ACL", "SETUSER", "narrow", "on", ">word", "~*", "&*", "+@all", "-xtrim", "-eval")
        code, text = doctor(
            "--stream", stream_url.replace("://:", "://narrow:word@", 1).replace(_secret(stream_url), "@"), "--json"
        )
        missing = [f["command"] for f in json.loads(text)["findings"] if f["needed"] and not f["ok"]]
        assert code == 1
        assert missing == ["XTRIM MINID", "EVAL, declared key", "SCRIPT LOAD, EVALSHA"]

    def test_says_that_nobody_answers(self) -> None:
        code, text = doctor("--stream", "redis://:word@127.0.0.1:1/0")
        assert code == 1
        assert "could not be reached" in text
        assert "Missing: PING." in text


def _secret(url: str) -> str:
    return "@" + url.partition("://:")[2].partition("@")[0] + "@"


def test_a_wrong_password_is_one_clear_finding(stream_url: str) -> None:
    findings = Examination(stream_url.replace("://:", "://:not", 1)).run()
    assert [(finding.command, finding.ok) for finding in findings] == [("PING", False)]
    assert "refused our login" in findings[0].got
