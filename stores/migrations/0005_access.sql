-- Who may see what: what patients refused, who is shielded, broken glasses and their reviews, who was told.
-- B: access policy

-- What a patient permits. History: the newest row of a record and scope counts; nothing is changed.
create table consent (
    consent_id    bigint generated always as identity primary key,
    patient_id    bigint not null references patient,
    scope         text not null check (scope in ('secondary', 'sharing')),
    is_permitted  boolean not null,
    decided_at_us bigint not null,
    decided_by    text not null,                   -- the person who took it down or decided, by name
    recorded_by   text not null                    -- issuer|subject of whoever wrote the row
);
create index consent_newest on consent (patient_id, scope, consent_id desc);

-- Who is to be shielded, set by hand beside what ADT says in PV1-16. History, as consent.
create table vip_flag (
    vip_flag_id   bigint generated always as identity primary key,
    patient_id    bigint not null references patient,
    is_vip        boolean not null,
    decided_at_us bigint not null,
    decided_by    text not null,
    recorded_by   text not null
);
create index vip_flag_newest on vip_flag (patient_id, vip_flag_id desc);

-- An emergency in which a rule was broken: who, for whom, why, for how long.
create table break_glass (
    break_glass_id bigint primary key,             -- random: nothing is learnt by counting
    agent          text not null,                  -- issuer|subject
    agent_name     text not null default '',
    practitioner   text not null default '',       -- as ADT names this person
    role           text not null,
    session        text not null default '',
    patient_id     bigint not null references patient,
    reason         text not null,                  -- a person's own words: may hold patient data
    reason_salt    bytea not null,                 -- the audit holds sha256(salt, reason): an edited reason is found
    opened_at_us   bigint not null,
    expires_at_us  bigint not null check (expires_at_us > opened_at_us)
);
create index break_glass_agent on break_glass (agent, expires_at_us desc);
create table break_glass_review (
    break_glass_id bigint primary key references break_glass,
    reviewer       text not null,
    reviewer_name  text not null default '',
    reviewed_at_us bigint not null,
    verdict        text not null check (verdict in ('justified', 'not_justified')),
    note           text not null default ''
);

-- Who must be told, until they are. No patient data: a number to look up.
create table notification (
    notification_id bigint generated always as identity primary key,
    break_glass_id  bigint not null references break_glass,
    created_at_us   bigint not null,
    due_at_us       bigint not null,               -- when the next attempt is worth it
    attempts        int not null default 0,
    last_fault      text not null default '',      -- kind of the last failure
    delivered_at_us bigint
);
create index notification_due on notification (due_at_us) where delivered_at_us is null;
-- Whose records are one person's is asked at every decision, from the surviving record down.
create index patient_merged_into on patient (merged_into) where merged_into is not null;

-- W: sessions
-- A browser's cookie holds a secret; here is its SHA-256. Tokens are sealed under a key made from the secret, so that
-- reading this table lets nobody be anybody. Writing it neither: each row carries a code under a key that is not here.
create table web_session (
    secret_hash bytea primary key check (length(secret_hash) = 32),
    name text not null,
    issuer text not null,
    subject text not null,
    sid text not null,
    principal bytea not null,
    tokens bytea not null,
    opened_at_us bigint not null,
    seen_at_us bigint not null,
    refresh_at_us bigint not null,
    expires_at_us bigint not null check (expires_at_us > opened_at_us),
    mac bytea not null                             -- HMAC-SHA-256 of the clinic over who, until when and by what secret
);
create index web_session_by_person on web_session (issuer, subject);
create index web_session_by_sid on web_session (issuer, sid) where sid <> '';
create index web_session_by_end on web_session (expires_at_us);

-- S: signers' keys in browsers
-- A registration gives nobody any power: only the roster does, a file outside of this database signed by the root key.
create table passkey_registration (
    credential text primary key,                   -- base64url
    person text not null,                          -- issuer|subject
    name text not null,
    public bytea not null,                         -- COSE key
    authenticator text not null,                   -- AAGUID
    is_synced boolean not null,
    registered_at timestamptz not null
);
create table passkey_challenge (                   -- one a session, answered once
    session text primary key,
    challenge bytea not null,
    expires_at timestamptz not null
);

-- C: care relationship
-- Who cares for a stay's patient (PV1-7, 8, 9, 17), bitemporal as encounter_location. Without an identifier a row says
-- that the role is nobody's, as somebody told.
create table care_relationship (
    encounter_id bigint not null references encounter,
    role         text not null check (role in ('attending', 'referring', 'consulting', 'admitting')),
    authority    text not null default '',
    identifier   text not null,
    from_us      bigint not null,
    to_us        bigint,
    known_from   bigint not null,                  -- positions
    known_to     bigint,
    primary key (encounter_id, role, from_us, authority, identifier, known_from)
);
-- Whether a stay's patient is to be hidden from those who do not treat them (PV1-16), as last told.
create table encounter_vip (
    encounter_id bigint not null references encounter,
    is_vip       boolean not null,
    at_us        bigint not null,                  -- of the event that said so
    known_from   bigint not null,
    known_to     bigint,
    primary key (encounter_id, known_from)
);
