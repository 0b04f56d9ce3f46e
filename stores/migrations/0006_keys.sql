-- Keys: which key protects whose data. Only wrapped keys are here; the master key that unwraps them is outside of the
-- database. Backups of the data leave these two tables out (pg_dump --exclude-table-data), and the keys are backed up by
-- themselves (`vigil keys backup`): a copy of both is a copy of the plain text.
create table master_key (
    master_key_id text primary key,
    source        text not null,                   -- 'file', 'env' or 'pkcs11': where it is, never what it is
    added_at_us   bigint not null,
    retired_at_us bigint,                          -- from then on it wraps nothing new
    destroyed_at_us bigint
);
create table data_key (
    key_id          bytea primary key check (octet_length(key_id) = 8),
    subject         bigint not null check (subject <> 0), -- patient_id; negative: minus the UTC day of what is nobody's
    generation      int not null check (generation >= 0),
    master_key_id   text not null references master_key,
    wrapped         bytea,                         -- null once the key was destroyed
    commitment      bytea not null check (octet_length(commitment) = 32), -- HKDF-SHA256 of the key: proves which it was
    created_at_us   bigint not null,
    destroyed_at_us bigint,
    destroyed_by    text not null default '',
    proof           text not null default '',      -- name of the signed proof of destruction
    changed         bigint,                        -- grows with every destruction and rotation: processes look for it
    unique (subject, generation),
    check ((wrapped is null) = (destroyed_at_us is not null))
);
create index data_key_changed on data_key (changed) where changed is not null;
create index data_key_master on data_key (master_key_id) where wrapped is not null;

-- Whose the messages of a pack in RAW are, so that sealing can put each under its patient's key. Removed when sealed.
create table raw_subject (
    position bigint primary key,
    subjects bytea not null                        -- msgpack list of patient_id by index in the pack; 0: nobody's
);
