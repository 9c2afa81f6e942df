"""The test house itself: its database is flushed, its stream server is its own."""

import pytest
from django.conf import settings

from safety.models import SafetyPolicy
from safety.stream_client import StreamClient
from tests import factories


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", [1, 2])
def test_a_committed_row_does_not_reach_the_next_test(round_):
    assert not SafetyPolicy.objects.exists()
    factories.make_nova("torch")
    factories.make_task(assignee="torch")


@pytest.mark.parametrize("round_", [1, 2])
def test_the_stream_server_is_empty_at_the_start_of_a_test(stream: StreamClient, round_):
    assert stream.call("DBSIZE") == 0
    stream.call("SET", "a", "b")
    assert "18000" not in settings.DRAGONFLY_URL


def test_the_fleet_has_the_five_personalities(fleet):
    assert fleet == ["torch", "echo", "helix", "vaeris", "synergy"]
