"""What the supervisor concludes from what it sees, on a clock of the test's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow.hosting.evidence import PROBE_INTERVAL, START_GRACE, Plan, Sight, Watch

SLOTS = ("slot:loops:here:0", "slot:loops:here:1")
SILENT = 4.0
TICK = 0.5


class World:
    """A cluster as the supervisor sees it, and the time."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.watch = Watch(SLOTS, SILENT, probe_limit=6.0)
        self.watch.cluster_started(self.at)
        self.beats = dict.fromkeys(SLOTS, 0)
        self.held = set(SLOTS)
        self.queued = set(SLOTS)
        self.probe_waits = False

    def pass_time(self, seconds: float, *, beating: tuple[str, ...] = SLOTS) -> list[Plan]:
        """Let time pass with a look each tick; the named slots beat. Gives the plans that want something, probes aside."""
        plans = []
        end = self.at + seconds
        while self.at < end:
            self.at += TICK
            for slot in beating:
                self.beats[slot] += 1
            plan = self.watch.look(
                self.at, Sight(dict(self.beats), frozenset(self.held), frozenset(self.queued), self.probe_waits)
            )
            if plan.restart:
                self.watch.cluster_started(self.at)
            if plan.seed or plan.revive or plan.restart:
                plans.append(plan)
        return plans


@pytest.fixture
def world() -> World:
    return World()


def test_a_beating_cluster_is_left_alone(world: World) -> None:
    assert world.pass_time(120) == []


def test_a_starting_cluster_has_its_grace(world: World) -> None:
    assert world.pass_time(START_GRACE, beating=()) == []


def test_a_silent_slot_is_revived_first_and_then_the_cluster_restarted(world: World) -> None:
    world.pass_time(START_GRACE + 1)
    plans = world.pass_time(13, beating=SLOTS[:1])
    assert [plan.revive for plan in plans] == [(SLOTS[1],), (SLOTS[1],), ()]
    assert SLOTS[1] in plans[-1].restart


def test_a_silent_cluster_is_restarted_sooner(world: World) -> None:
    world.pass_time(START_GRACE + 1)
    plans = world.pass_time(2 * SILENT + 1, beating=())
    assert "all its slots" in plans[-1].restart


def test_a_beat_after_the_revival_ends_the_silence(world: World) -> None:
    world.pass_time(START_GRACE + 1)
    world.pass_time(5, beating=SLOTS[:1])
    assert world.pass_time(30) == []


def test_a_free_slot_with_nothing_queued_is_seeded_once_a_second(world: World) -> None:
    world.pass_time(START_GRACE)
    world.held.discard(SLOTS[0])
    world.queued.discard(SLOTS[0])
    plans = world.pass_time(2)
    assert [plan.seed for plan in plans] == [(SLOTS[0],)] * 2


def test_an_unacknowledged_probe_means_a_restart_although_slots_beat(world: World) -> None:
    world.pass_time(START_GRACE + PROBE_INTERVAL)
    world.probe_waits = True
    plans = world.pass_time(7)
    assert "probe" in plans[-1].restart


def test_an_answered_probe_means_the_next_one(world: World) -> None:
    world.pass_time(START_GRACE)
    asked = 0
    for _ in range(60):
        world.at += TICK
        sight = Sight(dict.fromkeys(SLOTS, world.at), frozenset(SLOTS), frozenset(SLOTS), False)
        asked += world.watch.look(world.at, sight).probe
    assert 8 <= asked <= 10


def test_a_supervisor_that_was_asleep_restarts_nothing(world: World) -> None:
    world.pass_time(START_GRACE + 1)
    world.at += 300
    assert world.pass_time(1, beating=()) == []


def test_restarts_that_do_not_help_become_rarer(world: World) -> None:
    restarts = []
    for _ in range(2000):
        plans = world.pass_time(TICK, beating=())
        if any(plan.restart for plan in plans):
            restarts.append(world.at)
    gaps = [after - before for before, after in zip(restarts, restarts[1:], strict=False)]
    assert gaps[0] == pytest.approx(START_GRACE + 2 * SILENT, abs=2 * TICK)
    assert max(gaps) > 4 * gaps[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 20.0), st.sets(st.sampled_from(SLOTS))), max_size=30))
def test_no_slot_stays_silent_unnoticed(story: list[tuple[float, set[str]]]) -> None:
    world = World()
    for seconds, beating in story:
        world.pass_time(seconds, beating=tuple(beating))
    plans = world.pass_time(START_GRACE + 16 * SILENT + 8 * 3 * SILENT, beating=())
    assert any(plan.restart for plan in plans)
