"""The JSON door."""

from __future__ import annotations

from vocabulary.records import partition_of
from vocabulary.snapshot import SnapshotKey, canonical_bytes, digest, snapshot_id


async def test_a_snapshot_is_its_exact_bytes_under_its_digest(clinic, wards) -> None:
    snapshot = wards.snapshot(7, notices=["Zürich ≥"])
    clinic.live.publish(snapshot)
    await clinic.settle()
    body = canonical_bytes(snapshot)
    for path in ("/api/patients/7/snapshot", f"/api/snapshots/{snapshot.snapshot_id}"):
        answer = await clinic.client.get(path)
        assert answer.content == body
        assert answer.headers["etag"] == f'"{digest(body).hex()}"'
        again = await clinic.client.get(path, headers={"If-None-Match": f'"x", {answer.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")


async def test_a_kept_snapshot_is_found_by_its_id(clinic, wards, readers) -> None:
    old = wards.snapshot(7, position=(1 << 40) + 3)
    readers.bodies[old.snapshot_id] = canonical_bytes(old)
    answer = await clinic.client.get(f"/api/snapshots/{old.snapshot_id}")
    assert answer.content == canonical_bytes(old)


async def test_a_published_snapshot_whose_body_was_not_kept_says_how_to_make_it(clinic, readers) -> None:
    name = snapshot_id(SnapshotKey(partition_of(7), 55, 7))
    readers.digests[name] = (123, b"\x01" * 32)
    answer = await clinic.client.get(f"/api/snapshots/{name}")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "body_not_kept",
        "detail": f"It was published, but its body was not kept. `vigil replay {name}` makes it again.",
        "digest": "01" * 32,
        "as_of_us": 123,
    }


async def test_the_ward_at_a_glance(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(8))
    clinic.live.publish(
        wards.snapshot(7, score=wards.score({"heart_rate": 3, "respiratory_rate": 3, "x": 2}, band="high"))
    )
    await clinic.settle()
    ward = (await clinic.client.get("/api/ward")).json()
    assert [bed["patient_id"] for bed in ward["beds"]] == [7, 8]
    assert ward["beds"][0]["news2"]["total"] == 8
    assert ward["beds"][0]["signals"]["heart_rate"]["value"] == 84.0
    assert ward["beds"][0]["is_synthetic"] is True
    assert (await clinic.client.get("/api/ward?ward=nowhere")).json()["beds"] == []


async def test_one_patient_carries_the_snapshot_whole(clinic, wards) -> None:
    snapshot = wards.snapshot(7)
    clinic.live.publish(snapshot)
    await clinic.settle()
    answer = (await clinic.client.get("/api/patients/7")).json()
    assert answer["snapshot"]["snapshot_id"] == snapshot.snapshot_id
    assert answer["digest"] == digest(canonical_bytes(snapshot)).hex()
    assert answer["person"]["family_name"] == "Hansen"


async def test_what_is_not_there_is_said_in_json(clinic, readers) -> None:
    for path in ("/api/patients/99", "/api/patients/x", "/api/snapshots/1-2", "/api/snapshots/01-2-3", "/api/nothing"):
        answer = await clinic.client.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/json", path
    readers.is_available = False
    answer = await clinic.client.get("/api/patients/99")
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


async def test_health_needs_nothing_and_tells_nothing(clinic, readers) -> None:
    readers.is_available = False
    answer = await clinic.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
