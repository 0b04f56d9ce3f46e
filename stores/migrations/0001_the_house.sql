-- The first migration: everything the promises of the live plane need.
-- Times that a person may query are timestamptz; times that must be exact to the microsecond and compared with the
-- log are bigint microseconds (suffix _us). `position` is incarnation << 40 | RAW sequence, so it only grows.

-- Which RAW stream a position belongs to: a stream made anew starts at sequence 1, so it gets a new incarnation.
create table raw_incarnation (
    incarnation     int primary key,
    stream_identity text not null unique,          -- name and creation time as JetStream states them
    registered_at   timestamptz not null default now()
);

-- Promise 4: who may write on behalf of a reader of the log, and how far it has come.
create table position (
    reader      text primary key,                  -- 'normalizer', 'partition-00' … 'partition-63'
    epoch       bigint not null default 0,         -- grows with every taking over; an older epoch is fenced out
    position    bigint not null default 0,
    log_time_us bigint not null default 0,
    owner       text not null default '',
    taken_at    timestamptz
);
insert into position (reader) select 'partition-' || lpad(n::text, 2, '0') from generate_series(0, 63) n;
insert into position (reader) values ('normalizer');

-- Promise 3: a sender's retransmission is found by its own identity. key = md5(feed, MSH-3, MSH-4, MSH-10).
create table source_message (
    source_key  uuid primary key,
    body_digest uuid not null,                     -- first half of sha256(body)
    position    bigint not null,
    raw_index   int not null,
    received_at timestamptz not null
);
create index source_message_received on source_message using brin (received_at);

-- What the normalizer made of the log, per partition, until the engine has folded it. EVENTS is rebuilt from here.
create table partition_log (
    partition   smallint not null,
    position    bigint not null,
    previous    bigint not null,
    log_time_us bigint not null,
    messages    int not null,
    "values"    int not null,
    payload     bytea not null,                    -- msgpack of records.PartitionBatch
    primary key (partition, position)
);

-- Who is who. Patients are numbered by us; hospitals' numbers stay in patient_identifier.
create table patient (
    patient_id       bigint primary key,
    partition        smallint not null,
    merged_into      bigint references patient,
    family_name      text not null default '',
    given_name       text not null default '',
    birth_date       text not null default '' check (birth_date ~ '^([0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?)?$'), -- as FHIR: may be partial
    sex              text not null default 'unknown' check (sex in ('male', 'female', 'other', 'unknown')),
    created_position bigint not null,
    updated_position bigint not null
);
create table patient_identifier (
    authority  text not null,                      -- PID-3.4 (or the feed's own name where none is sent)
    value      text not null,
    kind       text not null default '',           -- PID-3.5: MR, PI, VN …
    patient_id bigint not null references patient,
    known_from bigint not null,                    -- positions
    known_to   bigint,
    primary key (authority, value, known_from)
);
create index patient_identifier_patient on patient_identifier (patient_id);
create table patient_merge (
    survivor_id     bigint not null references patient,
    retired_id      bigint not null references patient,
    merged_position bigint not null,
    merged_at       timestamptz not null,
    undone_position bigint,
    primary key (retired_id, merged_position)
);

create table location (
    location_id int generated always as identity primary key,
    facility    text not null default '',
    ward        text not null,
    room        text not null default '',
    bed         text not null default '',
    unique (facility, ward, room, bed)
);
create table encounter (
    encounter_id   bigint primary key,
    patient_id     bigint not null references patient,
    visit_number   text not null default '',
    class          text not null default '',       -- PV1-2
    status         text not null check (status in ('in-progress', 'finished', 'cancelled')),
    started_at_us  bigint not null,
    ended_at_us    bigint,
    known_from     bigint not null,
    updated_position bigint not null
);
create index encounter_patient on encounter (patient_id, started_at_us desc);
create index encounter_open on encounter (status) where status = 'in-progress';
create table encounter_location (                  -- bitemporal: where a stay was, and since when we knew
    encounter_id bigint not null references encounter,
    location_id  int not null references location,
    placed_by    text not null default 'admit' check (placed_by in ('admit', 'transfer', 'update')), -- which ADT said so
    from_us      bigint not null,
    to_us        bigint,
    known_from   bigint not null,
    known_to     bigint,
    primary key (encounter_id, from_us, known_from)
);

-- Promise 8: who wears the device. subject is a bed (facility|ward|room|bed) or a device identifier.
create table device_association (
    association_id bigint generated always as identity primary key,
    subject_kind   text not null check (subject_kind in ('bed', 'device')),
    subject        text not null,
    patient_id     bigint not null references patient,
    encounter_id   bigint references encounter,
    from_us        bigint not null,
    to_us          bigint,
    known_from     bigint not null,
    known_to       bigint,
    source         text not null check (source in ('adt', 'pcim', 'bedside'))
);
create index device_association_subject on device_association (subject_kind, subject, from_us desc);

-- Record of truth for signals: append-only; a late or corrected value is a new revision. Packed columns in `columns`
-- (stores/blocks.py). Fixed-width columns are ordered so that no padding is stored.
create table signal_block (
    patient_id        bigint not null,
    t0                timestamptz not null,        -- hour of the effective times within
    revision          bigint not null,             -- log position of the commit that wrote it; compacted: the last of them
    known_from        timestamptz not null,        -- the log's clock at that commit
    concept_bits      bigint not null,             -- bit (concept number mod 64) of each concept within: a filter, not a list
    effective_from_ms int not null,                -- first effective time within, milliseconds after t0, rounded down
    effective_to_ms   int not null,                -- last effective time within, milliseconds after t0, rounded up
    n                 int not null,
    signal_group      smallint not null,           -- Concept.signal_group
    level             smallint not null default 0, -- 0: one commit; 1: an hour, compacted
    columns           bytea not null,
    primary key (patient_id, signal_group, t0, revision)
) with (autovacuum_vacuum_scale_factor = 0.05);    -- compaction deletes most rows an hour after they came
alter table signal_block alter column columns set storage external;  -- packed already; a directory is read by substring
create index signal_block_open on signal_block (t0, patient_id, signal_group) where level = 0;
-- Labs, fluids, texts: low rate, looked up one by one.
create table observation_event (
    patient_id   bigint not null,
    concept      smallint not null,
    effective_at timestamptz not null,
    source_key   bigint not null,
    revision     bigint not null,                  -- log position of the message that carried it
    raw_index    int not null,
    value_index  int not null,
    released_position bigint not null default 0,   -- log position that released it, when it was held back; else 0
    value        double precision,
    text         text,
    status       smallint not null,
    received_at  timestamptz not null,
    known_from   timestamptz not null,
    device       text not null default '',
    feed         text not null default '',
    primary key (patient_id, concept, effective_at, source_key, revision, raw_index, value_index)
);

-- A projection of signal_block, one row a patient-minute, for pages and scores; can be made again at any time.
create table vitals_minute (
    patient_id               bigint not null,
    minute                   timestamptz not null,
    heart_rate               double precision,
    respiratory_rate         double precision,
    oxygen_saturation        double precision,
    systolic_blood_pressure  double precision,
    diastolic_blood_pressure double precision,
    mean_blood_pressure      double precision,
    body_temperature         double precision,
    inspired_oxygen_fraction double precision,
    pulse_rate               double precision,
    end_tidal_co2            double precision,
    glasgow_coma_score       double precision,
    n                        smallint[] not null,   -- values behind each median, in column order
    revised                  boolean not null default false,  -- written again after a late or corrected value
    primary key (patient_id, minute)
);

-- Promise 4: snapshots leave through the outbox, after the commit that made them.
create table outbox (
    outbox_id  bigint generated always as identity primary key,
    partition  smallint not null,
    position   bigint not null,
    payload    bytea not null                      -- zstd of the msgpack list of snapshot.Publication
);
-- Every published snapshot, packed per commit, big-endian: (patient_id int8, as_of_us int8, sha256 32 bytes) repeated.
create table snapshot_run (
    partition    smallint not null,
    position     bigint not null,
    published_at timestamptz not null,
    entries      bytea not null,
    primary key (partition, position)
);
-- Bodies worth keeping: the minute's, those shown or alerted on.
create table snapshot_body (
    partition    smallint not null,
    position     bigint not null,
    patient_id   bigint not null,
    as_of_us     bigint not null,
    kept_because text not null check (kept_because in ('minute', 'shown', 'alert', 'first', 'movement')),
    body         bytea not null,                   -- zstd of the canonical JSON
    primary key (patient_id, position)
);

-- Promise 5: nothing vanishes. One hash chain a writer; counts per pack; only what was not accepted is itemised below.
create table ledger_entry (
    writer            text not null,
    seq               bigint not null,
    at                timestamptz not null,
    kind              text not null check (kind in ('pack', 'applied', 'released', 'discarded', 'oversize', 'opened', 'note')),
    feed              text not null default '',
    position_from     bigint not null,
    position_to       bigint not null,
    messages_received int not null default 0,
    messages_accepted int not null default 0,
    messages_duplicate int not null default 0,
    messages_quarantined int not null default 0,
    messages_rejected int not null default 0,
    messages_shed     int not null default 0,
    values_received   int not null default 0,
    values_accepted   int not null default 0,
    values_duplicate  int not null default 0,
    values_quarantined int not null default 0,
    values_rejected   int not null default 0,
    values_shed       int not null default 0,
    without_value     int not null default 0,      -- segments that carry no value (OBX status X): counted apart
    detail            text not null default '',    -- canonical JSON; no patient data
    previous_hash     bytea not null,
    hash              bytea not null,
    primary key (writer, seq)
);

create table quarantine_item (
    item_id     bigint generated always as identity primary key,
    position    bigint not null,
    raw_index   int not null,
    value_index int not null default -1,           -- -1: the whole message
    feed        text not null,
    outcome     text not null check (outcome in ('duplicate', 'quarantined', 'rejected', 'shed')),
    reason      text not null,
    "where"     text not null,
    expected    text not null default '',
    found       text not null default '',          -- may quote the message: patient data, shown only to those allowed
    "values"    int not null default 0,            -- values of a whole message; 1 for a single value
    received_at timestamptz not null,
    state       text not null default 'open' check (state in ('open', 'released', 'discarded')),
    resolved_position bigint,
    waits_for   text not null default '',          -- identifier, bed or device key whose arrival releases it
    body        bytea                              -- zstd of the message, for whole messages that can be released
);
create index quarantine_item_open on quarantine_item (state, reason);
create index quarantine_item_waits on quarantine_item (waits_for) where state = 'open' and waits_for <> '';
create unique index quarantine_item_once on quarantine_item (position, raw_index, value_index);

-- What each sending system is doing, refreshed as it speaks.
create table feed_status (
    feed              text not null,
    source            text not null,               -- MSH-3|MSH-4
    last_received_at  timestamptz not null,
    last_message_at   timestamptz,                 -- MSH-7 of the last message
    clock_skew_s      double precision,            -- median-of-recent of MSH-7 − received_at
    expected_interval_s double precision not null,
    messages          bigint not null default 0,
    "values"          bigint not null default 0,
    not_accepted      bigint not null default 0,
    primary key (feed, source)
);
