"""Work discovery: each source, the order of work, momentum policy, and work styles with a real effect."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflow.core.facts import HOUR, MINUTE, NOW, make_config, make_inputs, make_objective, make_task
from workflow.core.discovery import (
    MomentumTaskGenerator,
    PriorityWorkDiscovery,
    StrategicWorkPlanner,
    StreamBasedWorkDiscovery,
    WorkQueueProcessor,
    rank,
)
from workflow.core.momentum import MOMENTUM_TEMPLATES, MomentumFacts, after_momentum_run, allowed_templates
from workflow.core.work import AGEING, MomentumBudget, Priority, WorkType, order_at

QUEUE = WorkQueueProcessor()
MINE = make_task("mine", assignee="torch")
OPEN = make_task("open")
STYLES = ("builder_focused", "coordinator_focused", "strategist_focused", "guardian_focused", "harmonizer_focused")

# -- the sources ---------------------------------------------------------------------------------------------------------------


def test_priority_work_is_what_was_given_to_this_nova():
    assert PriorityWorkDiscovery().generate_work([OPEN, MINE], "torch") == [MINE]


def test_stream_work_is_what_was_dealt():
    assert StreamBasedWorkDiscovery().generate_work([OPEN, MINE], "torch") == [OPEN]


def test_a_momentum_item_is_the_spec_s_text_with_its_builtin_action():
    config = make_config(team="builders")
    (item,) = MomentumTaskGenerator().generate_work(3, ["analyze_streams"], config, NOW)
    assert item.id == "momentum:builders:analyze_streams"
    assert item.title == "Momentum Task: Analyze stream coordination patterns for optimization opportunities"
    assert item.description == "Productive momentum work: Analyze stream coordination patterns for optimization opportunities"
    assert (item.executor, item.action) == ("builtin", "analyze_streams")
    assert (item.priority, item.work_type) == (Priority.LOW, WorkType.MOMENTUM)
    assert item.estimated_duration == 15 * MINUTE
    assert (item.team, item.assigned_to) == ("builders", "")
    assert item.metadata == {"template": "analyze_streams", "scope": "builders"}


def test_all_seven_templates_of_the_spec_are_there():
    assert list(MOMENTUM_TEMPLATES) == [
        "review_workflow",
        "update_documentation",
        "analyze_streams",
        "validate_safety",
        "research_patterns",
        "enhance_reporting",
        "optimize_coordination",
    ]


def test_the_work_style_decides_which_momentum_work_comes_first():
    first = {}
    for style in STYLES:
        items = MomentumTaskGenerator().generate_work(7, list(MOMENTUM_TEMPLATES), make_config(work_style=style), NOW)
        assert sorted(item.action for item in items) == sorted(MOMENTUM_TEMPLATES)
        first[style] = tuple(item.action for item in items[:3])
    assert first["builder_focused"][0] == "review_workflow"
    assert first["coordinator_focused"][0] == "optimize_coordination"
    assert first["strategist_focused"][0] == "research_patterns"
    assert first["guardian_focused"][0] == "validate_safety"
    assert len(set(first.values())) == len(STYLES)


def test_an_objective_becomes_one_item_for_its_nova_or_team():
    objective = make_objective(nova_id="echo", team="builders", priority=Priority.HIGH)
    (plan,) = StrategicWorkPlanner().generate_work([objective], NOW)
    assert plan.item is not None
    assert (plan.item.assigned_to, plan.item.team, plan.item.priority) == ("echo", "builders", Priority.HIGH)
    assert plan.item.work_type == WorkType.STRATEGIC
    assert plan.item.id == f"objective:{objective.id}:{objective.due_at.isoformat()}"


@pytest.mark.parametrize(
    ("due_at", "until", "makes_item", "next_due_at"),
    [
        (NOW, None, True, NOW + HOUR),
        (NOW - 5 * MINUTE, None, True, NOW + 55 * MINUTE),
        (NOW - 10 * HOUR, None, True, NOW + HOUR),
        (NOW, NOW + 2 * HOUR, True, NOW + HOUR),
        (NOW, NOW + 30 * MINUTE, True, None),
        (NOW - 2 * HOUR, NOW - HOUR, False, None),
    ],
)
def test_an_objective_keeps_its_beat_makes_up_for_nothing_and_ends(due_at, until, makes_item, next_due_at):
    (plan,) = StrategicWorkPlanner().generate_work([make_objective(due_at=due_at, until=until, cadence=HOUR)], NOW)
    assert (plan.item is not None) == makes_item
    assert plan.next_due_at == next_due_at


def test_an_objective_that_is_not_due_is_left_alone():
    assert StrategicWorkPlanner().generate_work([make_objective(due_at=NOW + MINUTE)], NOW) == []


# -- the processor -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "created", "expected"), [(0, 0, 3), (1, 0, 2), (1, 1, 1), (2, 1, 0), (3, 0, 0), (9, 0, 0)]
)
def test_momentum_work_fills_up_to_three_items(available, created, expected):
    inputs = make_inputs(available=available, momentum=MomentumBudget(tuple(MOMENTUM_TEMPLATES)))
    assert len(QUEUE.discover_work([], inputs, NOW, created=created).momentum) == expected


def test_objectives_count_as_available_work():
    inputs = make_inputs(available=1, objectives=[make_objective()], momentum=MomentumBudget(tuple(MOMENTUM_TEMPLATES)))
    found = QUEUE.discover_work([], inputs, NOW)
    assert (len(found.planned), len(found.momentum)) == (1, 1)


def test_only_allowed_templates_are_used():
    inputs = make_inputs(available=0, momentum=MomentumBudget(("validate_safety",)))
    assert [item.action for item in QUEUE.discover_work([], inputs, NOW).momentum] == ["validate_safety"]


def test_nothing_is_created_when_it_is_not_wanted():
    inputs = make_inputs(available=0, objectives=[make_objective()], momentum=MomentumBudget(("validate_safety",)))
    found = QUEUE.discover_work([OPEN], inputs, NOW, create=False)
    assert (found.planned, found.momentum, list(found.tasks)) == ([], [], [OPEN])


def test_a_task_that_two_sources_offer_is_found_once():
    assert QUEUE.discover_work([OPEN, MINE, OPEN], make_inputs(), NOW).tasks == sorted([MINE, OPEN], key=lambda task: task.id)


# -- the order of work ---------------------------------------------------------------------------------------------------------

some_tasks = st.lists(
    st.builds(
        make_task,
        priority=st.sampled_from(Priority),
        created_at=st.integers(0, 90_000).map(lambda seconds: NOW - timedelta(seconds=seconds)),
        dependants=st.integers(0, 3),
        attempts=st.integers(0, 3),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(some_tasks, st.sampled_from(STYLES))
def test_work_is_ordered_by_rank_and_age_whatever_the_style(tasks, style):
    ordered = rank(tasks, style)
    assert sorted(task.id for task in ordered) == sorted(task.id for task in tasks)
    instants = [order_at(task.priority, task.created_at).replace(microsecond=0) for task in ordered]
    assert instants == sorted(instants)


def test_priorities_rank_by_meaning_not_by_alphabet():
    tasks = [make_task(priority=priority) for priority in (Priority.LOW, Priority.HIGH, Priority.MEDIUM, Priority.CRITICAL)]
    ordered = [task.priority for task in rank(tasks, "builder_focused")]
    assert ordered == [Priority.CRITICAL, Priority.HIGH, Priority.MEDIUM, Priority.LOW]
    assert [priority.rank for priority in ordered] == [0, 1, 2, 3]


@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.MEDIUM, Priority.LOW])
def test_nothing_starves_old_work_overtakes_urgent_work(priority):
    urgent = make_task(priority=Priority.CRITICAL, created_at=NOW)
    old = make_task(priority=priority, created_at=NOW - AGEING[priority] - MINUTE)
    young = make_task(priority=priority, created_at=NOW - AGEING[priority] + MINUTE)
    assert rank([urgent, old], "builder_focused")[0] == old
    assert rank([urgent, young], "builder_focused")[0] == urgent


@pytest.mark.parametrize(
    ("style", "preferred"),
    [
        ("builder_focused", {"work_type": WorkType.REQUESTED, "estimated_duration": MINUTE}),
        ("coordinator_focused", {"dependants": 3}),
        ("strategist_focused", {"work_type": WorkType.STRATEGIC}),
        ("guardian_focused", {"work_type": WorkType.ALERT}),
        ("harmonizer_focused", {"work_type": WorkType.SIGNAL}),
    ],
)
def test_of_equally_urgent_tasks_the_work_style_has_its_choice(style, preferred):
    plain = make_task(id="A", work_type=WorkType.REQUESTED, estimated_duration=HOUR)
    favourite = replace(plain, id="B", **preferred)
    assert [task.id for task in rank([plain, favourite], style)] == ["B", "A"]
    urgent = make_task(id="C", priority=Priority.CRITICAL)
    assert rank([plain, favourite, urgent], style)[0] is urgent


# -- momentum policy -----------------------------------------------------------------------------------------------------------


def test_every_template_may_run_at_first():
    assert allowed_templates([], NOW, {}) == tuple(MOMENTUM_TEMPLATES)


def test_a_template_runs_at_most_once_an_hour_in_a_scope():
    facts = MomentumFacts("analyze_streams", NOW - 59 * MINUTE)
    assert "analyze_streams" not in allowed_templates([facts], NOW, {})
    assert "analyze_streams" in allowed_templates([facts], NOW + MINUTE, {})


def test_a_template_runs_at_most_four_times_a_day_for_a_nova():
    assert "analyze_streams" in allowed_templates([], NOW, {"analyze_streams": 3})
    assert "analyze_streams" not in allowed_templates([], NOW, {"analyze_streams": 4})


def test_a_sleeping_template_does_not_run():
    assert "analyze_streams" not in allowed_templates([MomentumFacts("analyze_streams", None, asleep=True)], NOW, {})


def test_three_runs_in_a_row_without_a_new_finding_put_a_template_to_sleep():
    known = ["stream a is silent"]
    fruitless, asleep = 0, False
    for expected in (1, 2, 3):
        assert not asleep
        fruitless, asleep = after_momentum_run(known, ["Stream A  is silent"], fruitless)
        assert fruitless == expected
    assert asleep


def test_a_new_finding_starts_the_count_afresh():
    assert after_momentum_run(["old"], ["old", "new"], 2) == (0, False)
    assert after_momentum_run([], [], 0) == (1, False)
