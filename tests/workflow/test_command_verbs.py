"""What an operator may do at REST can be done from the command line, by the same words."""

import argparse
import re

import pytest
from django.core.management import load_command_class

from workflow.api.urls import urlpatterns

# done by an agent with its Nova's key: no operator's verbs
AGENTS = {"renew", "progress", "complete", "fail", "release", "block"}
# at the command line they are `export` and `apply`, for all kinds of configured rows at once
BY_FILE = {"archive", "restore"}


def rest_verbs(begin: str) -> set[str]:
    """Give the verbs that the API has below an address: those in one pattern, and those with one of their own."""
    found: set[str] = set()
    for entry in urlpatterns:
        words = str(entry.pattern)
        if words.startswith(f"^{begin}/(?P<"):
            for group in re.findall(r"\(\?P<verb>([a-z|-]+)\)", words):
                found |= set(group.split("|"))
    return found


def command_verbs(name: str) -> set[str]:
    parser = load_command_class("workflow", name).create_parser("manage.py", name)
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set(action.choices)
        elif action.dest == "verb":
            found |= set(action.choices or ())
    return found


@pytest.mark.parametrize(
    ("address", "command"), [("novas", "nova"), ("tasks", "task"), ("incidents", "incident"), ("approvals", "approval")]
)
def test_every_verb_of_the_api_is_one_of_the_command_line(address, command):
    wanted = rest_verbs(address) - AGENTS - BY_FILE
    assert len(wanted) > 1
    assert wanted <= command_verbs(command)


@pytest.mark.parametrize("command", ["nova", "task"])
def test_what_is_listed_at_the_api_is_listed_and_shown_at_the_command_line(command):
    assert {"list", "show", "create"} <= command_verbs(command)


@pytest.mark.parametrize(
    "command",
    [
        "nova",
        "task",
        "message",
        "journal",
        "stream",
        "incident",
        "approval",
        "backup",
        "restore",
        "apply",
        "deploy",
        "seed_demo",
    ],
)
def test_every_command_prints_json_when_asked(command):
    parser = load_command_class("workflow", command).create_parser("manage.py", command)
    parsers = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers = list(action.choices.values())
    assert all("--json" in one._option_string_actions for one in parsers)
