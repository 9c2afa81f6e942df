"""Personalities: the spec's five, and that each of their traits makes a difference."""

import pytest

from tests.workflow.core.facts import NOW, UNSAFE, make_config, make_held, make_inputs, make_state, make_task, only
from workflow.core import effects as fx
from workflow.core.machine import execute_cycle
from workflow.core.personality import _VOICES, NovaPersonalityConfig, phrase
from workflow.core.state import WorkflowState

CONFIGS = NovaPersonalityConfig.PERSONALITY_CONFIGS
PATTERNS = tuple(config["communication_pattern"] for config in CONFIGS.values())


def test_the_five_personalities_are_the_spec_s():
    assert [(name, config["base_cycle_time"], config["reflection_frequency"]) for name, config in CONFIGS.items()] == [
        ("torch", 25, 0.3),
        ("echo", 15, 0.5),
        ("helix", 45, 0.7),
        ("vaeris", 60, 0.4),
        ("synergy", 20, 0.6),
    ]


def test_a_nova_gets_the_personality_of_its_name_or_torch_s():
    assert NovaPersonalityConfig.get_config("Helix") == CONFIGS["helix"]
    assert NovaPersonalityConfig.get_config("somebody") == CONFIGS["torch"]


def test_a_personality_that_was_given_out_can_be_changed_without_changing_the_table():
    NovaPersonalityConfig.get_config("torch")["base_cycle_time"] = 1
    assert CONFIGS["torch"]["base_cycle_time"] == 25


@pytest.mark.parametrize("occasion", list(_VOICES["direct_collaborative"]))
def test_every_voice_speaks_on_every_occasion_and_differently(occasion):
    facts = dict.fromkeys(
        ("title", "attempt", "percent", "owner", "impact", "reason", "phase", "count", "gist", "done", "errors", "recurring"),
        "<fact>",
    )
    said = {phrase(pattern, occasion, **facts) for pattern in PATTERNS}
    assert len(said) == 5
    assert len({text.count("<fact>") for text in said}) == 1, "no voice says more or less than the others"
    assert all(set(voice) == set(_VOICES["direct_collaborative"]) for voice in _VOICES.values())


def test_an_unknown_voice_is_torch_s():
    assert phrase("mumbling", "resume") == phrase("direct_collaborative", "resume")


@pytest.mark.parametrize(
    ("state", "inputs", "kind"),
    [
        (WorkflowState.STREAM_CHECK, {"dealt": [make_task()]}, fx.StartTask),
        (WorkflowState.TASK_EXECUTION, {"held": [make_held(status="succeeded")]}, fx.Celebrate),
        (WorkflowState.STREAM_CHECK, {"safety": UNSAFE}, fx.ReportStatus),
    ],
)
def test_the_communication_pattern_is_heard_in_what_a_nova_does(state, inputs, kind):
    heard = set()
    for pattern in PATTERNS:
        step = execute_cycle(make_state(state), make_inputs(make_config(communication_pattern=pattern), **inputs), NOW)
        effect = only(step, kind)
        heard.add(effect.update if isinstance(effect, fx.StartTask) else effect.message)
    assert len(heard) == 5


def test_a_title_with_braces_does_no_harm():
    step = execute_cycle(make_state(), make_inputs(dealt=[make_task("{title} {0} {")]), NOW)
    assert only(step, fx.StartTask).update == "Taking on: {title} {0} {."


def test_a_long_title_is_cut_in_what_is_said():
    step = execute_cycle(make_state(), make_inputs(dealt=[make_task("x" * 500)]), NOW)
    assert only(step, fx.StartTask).update == f"Taking on: {'x' * 117}...."
