"""What is typed about models asks the policy for the same right as the page that does the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from governance.access import Verb
from governance.statements import Action, Slot
from orchestration import committee
from stores.approvals import ApprovalRequest
from vocabulary.errors import RefusedError
from vocabulary.settings import Settings

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


@pytest.fixture
def asked(monkeypatch):
    """Verbs that were asked for; each is refused, so that nothing is done."""
    verbs: list[Verb] = []

    async def refusing(settings, surface, verb, **_):
        verbs.append(verb)
        raise RefusedError("The policy says no.")

    monkeypatch.setattr(committee, "require", refusing)
    return verbs


@pytest.mark.parametrize("action", [one for one in Action if one is not Action.PROMOTE])
async def test_ending_a_silence_is_another_right_than_taking_voice_away(asked, action):
    with pytest.raises(RefusedError):
        await committee.command(Settings(), "mortality", action, Slot.CHAMPION, "It is over.", NOW)
    assert asked == [Verb.RELEASE if action is Action.RESUME else Verb.CHANGE]


async def test_a_promotion_and_the_end_of_an_incident_are_asked_for_too(asked):
    request = ApprovalRequest(
        request_id="r", site="s", scope="mortality", slot="champion", version=1, model_digest="d", evidence_digest="e",
        evidence="{}", conditions=(), author="a|b", opened_at_us=0, opened_by="a|b", expires_at_us=1,
    )  # fmt: skip
    with pytest.raises(RefusedError):
        await committee.promote(Settings(), request, NOW)
    with pytest.raises(RefusedError):
        await committee.close_incident(Settings(), 1, "A cable.", NOW)
    assert asked == [Verb.APPROVE, Verb.REVIEW]
