"""Following the serving record: which models may speak here, loaded before they are needed.

The record is heard of by LISTEN and looked at once a second. Each look judges all of it (governance.serving), without
the experiment tracker or any other service; a model is then read by its digest from this machine's own files, in a
thread, and put in force between two cycles. The model before it, and the one a rollback would go to, stay loaded, so
that an older approval serves again within one cycle. What cannot be loaded is silent and tried again; a record that
cannot be read leaves in force what was: the engine cannot commit without PostgreSQL either.

Here: the follower of one process, and recalling for a replay what was in force then.
Not here: judging rows (governance.serving), what a voice says (twin.voice, twin.risk), appending rows.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from governance import high_water, lifecycle, serving_record
from governance.access import Surface, Verb
from governance.audit import Auditor
from governance.serving import Held, Judgement, Refusal, Standing, judge, load_trust
from governance.statements import Slot
from stores import serving as stored
from stores.audit_log import AuditEntry
from stores.database import Connection, transaction
from stores.ledger import detail_of
from stores.model_files import ModelFiles
from twin.voice import NOBODY, Voice, Voices, parse_token, voice_of
from vocabulary.clock import Clock
from vocabulary.errors import BrokenInvariantError, ConfigurationError, FencedOutError, UnavailableError, VigilError
from vocabulary.settings import Settings

if TYPE_CHECKING:
    from models.risk.artefact import RiskModel

SCOPE: Final = "mortality"
"""What the engine has a model for."""
POLL_S: Final = 1.0
"""A row is heard of at once; this long at most when the announcement was lost."""
JUDGE_AGAIN_S: Final = 10.0
"""Rows, roster and keys are judged again this often although no row is new: they may have been altered, or ended."""
RETRY_S: Final = 5.0
"""A model that could not be loaded, or failed, is tried again after this long."""
WARM: Final = 4
"""Models kept loaded at most: champion, silent candidate, and where a rollback of each would go."""

_log = logging.getLogger("vigil.engine")

_SPEAKING: Final = frozenset({Standing.SPEAKING, Standing.CLAMPED})


class ServingFollower:
    """Knows who may speak now. `run` keeps it so; `voices` never waits."""

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], Awaitable[Connection]],
        clock: Clock,
        auditor: Auditor | None = None,
        *,
        scope: str = SCOPE,
    ) -> None:
        """Start with nobody.

        Args:
            settings: where roster, anchors and models' files are.
            connect: opens a connection of its own to the database.
            clock: real time, whatever clock a demonstration's ward has: approvals end by it.
            auditor: records refusals; None: they are only logged.
            scope: what to follow.
        """
        self._settings = settings
        self._connect = connect
        self._clock = clock
        self._auditor = auditor
        self._scope = scope
        self._policy = lifecycle.load()
        self._files = ModelFiles(settings.models_dir)
        self._voices = Voices()
        self._warm: dict[str, RiskModel] = {}  # by digest, the one used last at the end
        self._faults: dict[str, float] = {}  # digest of a model that could not be asked → when to try again
        self._newest = -1  # serving_id of the newest row that was judged
        self._judged_at = -JUDGE_AGAIN_S
        self._refused: set[tuple[int, str]] = set()  # logged
        self._audited: set[tuple[int, str]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # once it runs: where failures are noted
        self._thread = 0
        self._looked = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self.looks = 0

    @property
    def voices(self) -> Voices:
        """Return who may speak now; the same objects while nothing changed."""
        return self._voices

    def note_failure(self, voice: Voice, error: Exception) -> None:
        """Silence a model that failed while it was asked, until it was read anew; from any thread."""
        if self._loop is not None and threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.note_failure, voice, error)
            return
        self._blame(voice.model_digest)
        self._voices = Voices(*(one.failed() if one is voice else one for one in self._voices))
        self._tell_failure(voice, error)

    async def first_look(self, timeout_s: float) -> bool:
        """Wait until the record was looked at once; return whether it was in time."""
        try:
            await asyncio.wait_for(self._looked.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop`, over as many connections as it takes."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        while not stop.is_set():
            try:
                connection = await self._connect()
                try:
                    async with transaction(connection):
                        await stored.listen(connection)
                    while not stop.is_set():
                        await self.look(connection)
                        async for _ in stored.heard(connection, POLL_S):
                            pass
                finally:
                    await connection.close()
            except (UnavailableError, ConfigurationError) as error:
                # The record cannot be read: what was in force stays in force, and is replayable.
                _log.warning("serving_not_followed", extra={"reason": str(error)})
                await asyncio.sleep(0.2)
            except Exception:  # noqa: BLE001 - see below
                # The outermost loop of this task. Without it the last model would speak on, whatever the record says;
                # with the whole engine ended instead, the board would go blank. So models fall silent until it works.
                _log.exception("serving_follower_failed")
                self._voices = Voices(*(one.failed() if one.wants_model else one for one in self._voices))
                self._judged_at = -JUDGE_AGAIN_S  # what is silent now is judged again at the next look
                await asyncio.sleep(POLL_S)

    async def look(self, connection: Connection) -> None:
        """Judge the record if it may have changed, and put in force what it says.

        Raises:
            UnavailableError: PostgreSQL is away.
        """
        loop = asyncio.get_running_loop()
        async with transaction(connection):
            newest = await stored.newest(connection)
        is_due = newest != self._newest or loop.time() - self._judged_at >= JUDGE_AGAIN_S
        if not is_due and not any(at <= loop.time() for at in self._faults.values()):
            return
        now = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)
        # The note of what was seen first: a row appended in between is then new, and not missing from it.
        trust = await asyncio.to_thread(load_trust, self._settings, now)
        async with transaction(connection):
            rows = await serving_record.read_rows(connection, self._scope)
        judged = await asyncio.to_thread(judge, rows, trust, self._policy, now)
        judgement = judged.get(self._scope)
        if judgement is not None:
            await self._put_in_force(judgement)
            await self._remember(judgement)
        else:
            self._voices = Voices()
        self._newest = rows[-1].serving_id if rows else newest
        self._judged_at = loop.time()
        self.looks += 1
        self._looked.set()
        if judgement is not None:
            await self._audit([*judgement.refusals])

    async def _put_in_force(self, judgement: Judgement) -> None:
        # What takes voice away holds at once: reading the models that come instead may take a while.
        quiet = Voices(
            *(
                before if (now := judgement.slots[slot]).standing in _SPEAKING else _quiet(judgement, now, before)
                for slot, before in zip((Slot.CHAMPION, Slot.SILENT), self._voices, strict=True)
            )
        )
        if quiet != self._voices:
            self._voices = quiet
        found = []
        wanted: list[str] = []
        for slot, before in zip((Slot.CHAMPION, Slot.SILENT), self._voices, strict=True):
            held = judgement.slots[slot]
            voice = await self._voice(judgement, held, before)
            found.append(voice)
            wanted += [row.model_digest for row in (held.row, held.previous) if row is not None]
            if held.previous is not None:
                await self._load(held.previous.model_digest, is_needed=False)
        if found != list(self._voices):
            self._voices = Voices(*found)
            for slot, voice in zip((Slot.CHAMPION, Slot.SILENT), found, strict=True):
                _log.info("voice", extra={"slot": str(slot), "model": voice.name, "token": voice.token})
        self._cool(wanted)

    async def _voice(self, judgement: Judgement, held: Held, before: Voice) -> Voice:
        voice = _bare(judgement, held)
        if not voice.token and not voice.is_card:
            return before if before is NOBODY else NOBODY
        model = await self._load(voice.model_digest, is_needed=voice.wants_model) if voice.is_card else None
        if voice.wants_model:
            voice = msgspec.structs.replace(voice, model=model) if model is not None else voice.failed()
        same = before.token == voice.token and before.model is voice.model and before.since_us == voice.since_us
        return before if same else voice

    async def _load(self, digest: str, *, is_needed: bool) -> RiskModel | None:
        """Return a model, from memory or from its files; None where it cannot be asked."""
        if digest in self._warm:
            self._warm[digest] = self._warm.pop(digest)
            return self._warm[digest]
        if self._faults.get(digest, 0.0) > asyncio.get_running_loop().time():
            return None
        try:
            # Another thread: importing the library and reading a model take longer than a cycle may.
            model = await asyncio.to_thread(load_model, self._files, digest)
        except Exception as error:  # noqa: BLE001 - whatever a damaged file makes its reader raise costs only the estimate
            self._blame(digest)
            if is_needed:
                _log.error("model_not_loaded", extra={"model": digest[:16], "reason": _reason(error)})
                await self._audit_fault(digest, error)
            return None
        self._faults.pop(digest, None)
        self._warm[digest] = model
        return model

    def _blame(self, digest: str) -> None:
        self._warm.pop(digest, None)
        self._faults[digest] = asyncio.get_running_loop().time() + RETRY_S

    def _cool(self, wanted: Collection[str]) -> None:
        """Let go of models that neither serve nor may soon, the longest unused first."""
        spare = [digest for digest in self._warm if digest not in wanted]
        for digest in spare[: max(0, len(self._warm) - WARM)]:
            del self._warm[digest]
        for digest in [digest for digest in self._faults if digest not in wanted]:
            del self._faults[digest]

    async def _remember(self, judgement: Judgement) -> None:
        if judgement.broken:
            return  # what was written by somebody else is not what was seen
        try:
            await asyncio.to_thread(
                high_water.remember, self._settings.anchors_dir, {self._scope: judgement.high_water}
            )
        except ConfigurationError as error:
            _log.error("serving_not_remembered", extra={"reason": str(error)})

    # -- what is told

    async def _audit(self, refusals: Collection[Refusal]) -> None:
        for refusal in refusals:
            detail: dict[str, str | int] = {
                "scope": refusal.scope,
                "slot": str(refusal.slot),
                "serving": refusal.serving_id,
                "reason": refusal.reason,
                "action": str(refusal.action),
            }
            key = (refusal.serving_id, refusal.reason)
            if key not in self._refused:
                self._refused.add(key)
                _log.warning("serving_row_refused", extra=detail)
            await self._record_once(key, "load_model", "denied", detail)

    async def _audit_fault(self, digest: str, error: Exception) -> None:
        detail: dict[str, str | int] = {"scope": self._scope, "model": digest, "reason": type(error).__name__}
        await self._record_once((0, digest), "load_model", "failed", detail)

    def _tell_failure(self, voice: Voice, error: Exception) -> None:
        detail: dict[str, str | int] = {
            "scope": self._scope,
            "model": voice.model_digest,
            "serving": voice.serving_id,
            "reason": type(error).__name__,
        }
        task = asyncio.ensure_future(
            self._record_once((voice.serving_id, f"failed {voice.model_digest}"), "ask_model", "failed", detail)
        )
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _record_once(
        self, key: tuple[int, str], action: str, outcome: str, detail: Mapping[str, str | int]
    ) -> None:
        """Record an event that this process did not record yet; one that cannot be written now is tried again."""
        if key in self._audited or self._auditor is None:
            return
        try:
            await self._auditor.record(
                AuditEntry(
                    at_us=0,
                    action=action,
                    outcome=outcome,  # type: ignore[arg-type]
                    surface=Surface.MODELS,
                    verb=Verb.READ,
                    agent=f"system|{self._auditor.writer_name}",
                    detail=detail_of(**detail),
                )
            )
        except (UnavailableError, FencedOutError) as error:
            _log.warning("refusal_not_audited", extra={"reason": str(error)})
        else:
            self._audited.add(key)


def load_model(files: ModelFiles, digest: str) -> RiskModel:
    """Return a model read from its files, each checked against its digest.

    Raises:
        ModelFileMissingError, ModelFileDamagedError: a file is not here, or not what its name says.
        ConfigurationError: the manifest is none, or was made with features that this code does not compute.
    """
    # Only here: the library takes longer to import than a process may take to begin.
    from models.risk import artefact

    return artefact.load(files.get(digest), files.get)


def _reason(error: Exception) -> str:
    # Our own errors say which file; a library's may quote anything.
    return str(error) if isinstance(error, VigilError) else type(error).__name__


def _bare(judgement: Judgement, held: Held) -> Voice:
    """Return a slot's voice, its model not loaded."""
    cause = held.cause
    if held.row is None and held.since is None:
        cause = judgement.broken
    return voice_of(judgement.scope, held.standing, held.row, held.since, cause)


def _quiet(judgement: Judgement, held: Held, before: Voice) -> Voice:
    """Return the voice of a slot whose model may not be asked; the one before where nothing changed."""
    voice = _bare(judgement, held)
    if not voice.token and not voice.is_card:
        return before if before is NOBODY else NOBODY
    return before if (before.token, before.since_us) == (voice.token, voice.since_us) else voice


class Memory:
    """What was in force when snapshots were published: for replays, which judge nothing anew."""

    def __init__(self, files: ModelFiles | None) -> None:
        """Recall from a folder of models' files; None: only what was said without a model."""
        self._files = files
        self._voices: dict[str, Voice] = {"": NOBODY}
        self._models: dict[str, RiskModel] = {}

    async def voice(self, connection: Connection, token: str) -> Voice:
        """Return the voice that a run's token names, its model loaded.

        Raises:
            BrokenInvariantError: the token is none, or a row it names is gone.
            ModelFileMissingError, ModelFileDamagedError: the model is not here any more.
        """
        if token not in self._voices:
            self._voices[token] = await self._recall(connection, token)
        return self._voices[token]

    async def _recall(self, connection: Connection, token: str) -> Voice:
        try:
            named = parse_token(token)
        except ValueError:
            raise BrokenInvariantError(f"expected the rows a run was made under, found {token!r}") from None
        rows = {row.serving_id: row for row in await serving_record.read_rows(connection, named.scope)}
        missing = {named.serving_id, named.approved_id} - {0, *rows}
        if missing:
            raise BrokenInvariantError(
                f"rows {sorted(missing)} of the serving record are gone: what was said under them cannot be said again"
            )
        since, approved = rows.get(named.serving_id), rows.get(named.approved_id)
        cause = named.cause
        if cause is None:
            cause = since.cause if since is not None and named.standing is not Standing.SPEAKING else ""
        voice = voice_of(named.scope, named.standing, approved, since, cause)
        if named.is_failed:
            return voice.failed()
        return msgspec.structs.replace(voice, model=await self._model(voice)) if voice.wants_model else voice

    async def _model(self, voice: Voice) -> RiskModel:
        if self._files is None:
            raise BrokenInvariantError("a model spoke in this snapshot: give the folder of models' files")
        if voice.model_digest not in self._models:
            self._models[voice.model_digest] = await asyncio.to_thread(load_model, self._files, voice.model_digest)
        return self._models[voice.model_digest]
