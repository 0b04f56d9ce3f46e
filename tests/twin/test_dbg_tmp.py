import os
from stores.database import connect
from stores import minutes
from models.features import FeatureWindow
from twin import forecast, replay, rebuilding
from twin.state import Patient
from vocabulary.snapshot import parse_snapshot_id
async def test_dbg(simulation, live_plane, tmp_path, new_database):
    seed, way, target = int(os.environ["S"]), eval(os.environ["W"]), os.environ["T"]
    n = int(os.environ.get("N", 0))
    log = simulation.write_log(live_plane.Hospital, seed, 260)
    st = live_plane.settings_for(tmp_path, "postgresql://unused", "nats://unused")
    fc = forecast.open_forecaster(st)
    url = new_database()
    run = simulation.Run(log, st, url, fc, seed*100+n)
    conn = await connect(url, application_name="t")
    key = parse_snapshot_id(target)
    pub = run._publish
    hist = []
    def publish(ps):
        for p in ps:
            if p.patient_id == key.patient_id:
                hist.append((p.snapshot_id, {c: run.engine.window.bins(key.patient_id, c, log.now_us//60000000-1440, log.now_us//60000000) for c in (1,3)}))
        pub(ps)
    run._publish = publish
    cyc = simulation.advance
    async def adv(engine, batches, tick, is_behind):
        for b in batches:
            for e in b.events:
                if key.patient_id in (getattr(e,'patient_id',None), getattr(e,'survivor_id',None), getattr(e,'retired_id',None)):
                    print("EV", b.position & 0xffffff, b.log_time_us//60000000, type(e).__name__, getattr(e,'movement',''), [(o.concept,o.effective_at_us//60000000,o.value,o.status) for o in getattr(e,'observations',[])], getattr(e,'survivor_id',''), getattr(e,'retired_id',''))
        r = await cyc(engine, batches, tick, is_behind=is_behind)
        print("CYCLE", tick and tick.position & 0xffffff, [b.position & 0xffffff for b in batches][:5], is_behind, len(r[0]), key.patient_id in engine.patients)
        return r
    simulation.advance = adv
    try:
        await run.play(**way)
    finally:
        simulation.advance = cyc
    for h in hist:
        if h[0]==target: print(h)
    located = await rebuilding.locate(conn, key.patient_id, key.position)
    p = Patient(key.patient_id, 1, located.place, located.record_ids)
    w = FeatureWindow(minutes.minute_concepts())
    k = await replay.replay(conn, fc, target)
    await rebuilding.compute_window(conn, w, p, k.rebuilt.as_of_us, key.position)
    print("COMPUTED", k.rebuilt.as_of_us//60000000, located, {c: w.bins(key.patient_id, c, 0, 10**8) for c in (1,3)})
    await conn.rollback()
    await conn.close(); await run.close()
    assert 0
