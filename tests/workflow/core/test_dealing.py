"""Dealing open tasks to Novas, task ids, and the key of similar tasks."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflow.core.facts import make_task
from workflow.core.work import Wanting, deal, similarity_key, task_id

EXECUTORS = frozenset(("builtin", "agent"))


def make_wanting(nova_id="torch", *, team="", free_slots=1, default_executor="builtin", allowed_executors=EXECUTORS):
    return Wanting(nova_id, team, free_slots, default_executor, allowed_executors)


open_tasks = st.lists(
    st.builds(make_task, team=st.sampled_from(("", "a", "b")), executor=st.sampled_from(("", "builtin", "model", "agent"))),
    max_size=30,
)
novas = st.lists(
    st.builds(
        make_wanting,
        st.uuids().map(str),
        team=st.sampled_from(("", "a", "b")),
        free_slots=st.integers(0, 3),
        default_executor=st.sampled_from(("builtin", "model", "agent")),
        allowed_executors=st.sampled_from((EXECUTORS, EXECUTORS | {"model"}, frozenset(("model",)))),
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(open_tasks, novas)
def test_dealing_obeys_its_laws(tasks, wanting):
    hands = deal(tasks, wanting)
    places = {task.id: place for place, task in enumerate(tasks)}
    dealt = [task.id for hand in hands.values() for task in hand]
    assert len(dealt) == len(set(dealt)), "one task, one Nova"
    for nova in wanting:
        hand = hands.get(nova.nova_id, [])
        assert len(hand) <= nova.free_slots
        assert all(earlier < later for earlier, later in pairwise(places[task.id] for task in hand)), "in order"
        for task in hand:
            executor = task.executor or nova.default_executor
            assert task.team in ("", nova.team)
            assert executor != "agent"
            assert executor in nova.allowed_executors
        if len(hand) < nova.free_slots:
            left = [task for task in tasks if task.id not in dealt and nova.may_take(task.team, task.executor)]
            assert left == [], "nothing is left that a Nova with a free slot may take"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(1, 7), st.integers(1, 9))
def test_equal_novas_get_equally_many(tasks, count, slots):
    wanting = [make_wanting(str(number), free_slots=slots) for number in range(count)]
    hands = deal([make_task() for _ in range(tasks)], wanting)
    sizes = [len(hands.get(nova.nova_id, ())) for nova in wanting]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == min(tasks, count * slots)


def test_a_nova_that_got_work_of_its_team_lets_others_have_the_open_work():
    wanting = [make_wanting("a", team="a", free_slots=2), make_wanting("b", team="b", free_slots=2)]
    for_a, open_task = make_task(team="a"), make_task()
    assert deal([for_a, open_task], wanting) == {"a": [for_a], "b": [open_task]}


def test_the_most_urgent_task_is_dealt_first():
    first, second = make_task(), make_task()
    assert deal([first, second], [make_wanting()]) == {"torch": [first]}


def test_dealing_many_tasks_to_many_novas_is_quick_work():
    calls = 0

    class Counting(Wanting):
        __slots__ = ()

        def may_take(self, team, executor):
            nonlocal calls
            calls += 1
            return super().may_take(team, executor)

    wanting = [Counting(str(number), "", 8, "builtin", EXECUTORS) for number in range(128)]
    hands = deal([make_task() for _ in range(1024)], wanting)
    assert sum(map(len, hands.values())) == 1024
    assert calls == 128  # once for each Nova and kind of task, not for each pair


def test_a_task_id_has_the_spec_s_form():
    assert task_id("torch", 1763640000, 1).startswith("TORCH-1763640000-")
    assert task_id("FLEET", 1763640000, 1).startswith("FLEET-1763640000-")
    assert len(task_id("torch", 1763640000, 5).rsplit("-", 1)[1]) == 6


def test_task_ids_of_a_second_never_collide():
    found = {task_id("torch", 1, counter) for counter in range(0, 200_000)}
    assert len(found) == 200_000


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1))
def test_the_hex_of_a_task_id_is_a_bijection_of_24_bits(one, other):
    assert (task_id("t", 1, one) == task_id("t", 1, other)) == (one == other)
    assert task_id("t", 1, one) == task_id("t", 1, one + 2**24)


def test_a_similarity_key_fits_its_column_and_tells_kinds_apart():
    assert similarity_key("requested", "builtin", "echo") == "requested:builtin:echo"
    long_keys = {similarity_key("requested", "x" * 32, "y" * 63 + end) for end in "ab"}
    assert len(long_keys) == 2
    assert all(len(key) <= 100 for key in long_keys)
