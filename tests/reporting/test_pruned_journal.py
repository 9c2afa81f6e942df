"""What the roll-ups have not summed up yet is not pruned."""

import pytest

from reporting.models import RollUpCursor
from safety import pruning

pytestmark = pytest.mark.django_db


def test_the_roll_ups_say_what_they_have_not_read():
    assert pruning.unread() == {"roll-ups": 1}
    RollUpCursor.objects.update_or_create(id=1, defaults={"position": 7})
    assert pruning.unread() == {"roll-ups": 8}
