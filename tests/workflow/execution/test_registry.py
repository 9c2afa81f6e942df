"""Which executors there are."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from workflow.execution.builtin import MOMENTUM_ACTIONS, Builtin
from workflow.execution.registry import executors, is_known


def test_builtin_and_what_settings_name_are_there() -> None:
    assert {"builtin", "probe", "append"} <= set(executors())
    assert set(executors()["builtin"].actions) >= {"echo", "brief", *MOMENTUM_ACTIONS}
    assert len(MOMENTUM_ACTIONS) == 7


def test_an_agent_is_known_but_runs_in_no_host(settings: Any) -> None:
    assert is_known("agent")
    assert not is_known("nonesuch")
    assert "agent" not in executors()
    settings.EXECUTORS = {"agent": "workflow.execution.builtin.Builtin"}
    with pytest.raises(ImproperlyConfigured, match="claimed from outside"):
        executors()


def test_an_executor_that_can_not_be_loaded_is_named(settings: Any) -> None:
    settings.EXECUTORS = {"odd": "workflow.execution.nowhere.Odd"}
    with pytest.raises(ImproperlyConfigured, match=r"workflow\.execution\.nowhere\.Odd"):
        executors()


def test_every_inline_action_is_an_action() -> None:
    assert Builtin.inline <= Builtin.actions
