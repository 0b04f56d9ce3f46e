"""What every route needs, made once per process and passed in.

Here: the one frozen bundle of it, finding the patient a request speaks of, what of a board somebody may see.
Not here: making it (clinic.app), routes.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment

from clinic.broadcast import Hub
from clinic.feeds_painter import Feeds
from clinic.identity import Identity
from clinic.painter import Board
from clinic.patient_painter import PatientPages
from clinic.questions import Readers
from clinic.sight import BoardTopic, look, purpose_of
from clinic.signers import SignerNames
from clinic.ward_live import Twin, WardLive
from governance.access import Ask, Principal, Surface, Verb
from governance.gate import Gate
from governance.serving_record import Appender
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings
from vocabulary.snapshot import SnapshotKey, snapshot_id


def speed_of(settings: Settings) -> float:
    """Return how many seconds of the log pass in a real one."""
    return settings.clock_speed if settings.clock_origin_us is not None else 1.0


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of a running clinic."""

    settings: Settings
    clock: Clock  # the log's: a demonstration's may be fast
    wall_clock: Clock  # real time: sessions, glasses and waivers end by it
    public_url: str  # as browsers write our address, without a slash at its end
    identity: Identity
    gate: Gate
    readers: Readers
    ward: WardLive
    board: Board
    pages: PatientPages
    feeds: Feeds
    hub: Hub
    templates: Environment
    recheck_s: float  # how often an open stream's viewer is asked about again
    name_of: SignerNames  # names of signers, by the roster
    appender: Appender | None = None  # this process as one that writes the serving record; None without an identity

    @property
    def speed(self) -> float:
        """Return how many seconds of the log pass in a real one: other than 1 only in demonstrations."""
        return speed_of(self.settings)

    @property
    def identifier_system(self) -> str:
        """Return the system our own patient numbers are told under."""
        return f"urn:vigil:{self.settings.site}:patient"

    @property
    def snapshot_system(self) -> str:
        """Return the system snapshot ids are told under."""
        return f"urn:vigil:{self.settings.site}:snapshot"

    def may(self, principal: Principal, surface: Surface, verb: Verb = Verb.READ) -> bool:
        """Return whether somebody may come to a surface at all: for menus, which show and decide nothing."""
        policy = self.gate.policy
        purpose = purpose_of(policy, principal, surface, verb)
        return policy.decide(principal, Ask(surface=surface, verb=verb, purpose=purpose), None).is_permitted

    async def board_for(self, principal: Principal, ask: Ask, ward: str | None, view: str) -> BoardTopic | None:
        """Return a board as somebody may see it now, None when it is not for them; one event.

        Raises:
            UnavailableError: facts cannot be read, or the event cannot be written.
        """
        beds = {bed.row.patient_id: bed.row.ward for bed in self.board.beds()}
        sight = await look(self.gate, principal, ask, beds, view)
        return None if sight is None else BoardTopic(ward, sight)

    async def survivor(self, patient_id: int) -> int | None:
        """Return the id a patient is kept under; None when nobody has that number.

        Raises:
            UnavailableError: only the database could tell, and it does not answer.
        """
        try:
            return await self.readers.survivor(patient_id)
        except UnavailableError:
            if self.ward.twin(patient_id) is not None:
                return patient_id
            raise

    async def shown(self, twin: Twin) -> Twin:
        """Keep a snapshot because it is shown now, so that its id leads to its bytes later; return it."""
        try:
            await self.readers.keep_shown(twin.body)
        except UnavailableError:
            # Never blank: it can still be made again from the log.
            return twin
        return twin

    async def snapshot_body(self, key: SnapshotKey) -> bytes | None:
        """Return a snapshot's bytes, from memory when it is the latest, else as kept.

        Raises:
            UnavailableError: the database does not answer.
        """
        held = self.ward.twin(key.patient_id)
        if held is not None and held.snapshot.snapshot_id == snapshot_id(key):
            return held.body
        kept = await self.readers.snapshot(key)
        return kept.body if kept else None
