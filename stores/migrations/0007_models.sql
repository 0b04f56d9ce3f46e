-- Models: versions, verdicts, approvals, which version serves, what it said, and what came of it.
-- What is decided is append-only. The serving record is believed by its signatures, never because it is here
-- (governance.serving); everything else here can be lost or forged without giving a model a voice.

create table model_version (
    scope            text not null check (scope ~ '^[a-z][a-z0-9_]*$'),
    version          int not null check (version > 0),  -- serial in its scope
    model_digest     text not null unique check (model_digest ~ '^[0-9a-f]{64}$'), -- SHA-256 of the manifest
    manifest         text not null,
    author           text not null check (author <> ''), -- issuer|subject
    registered_at_us bigint not null,
    data_fingerprint text not null,
    code_version     text not null,
    lock_digest      text not null,
    protocol         text not null default '',     -- 'mortality@1'
    protocol_digest  text not null,
    is_synthetic     boolean not null,
    run_id           text not null default '',     -- of the experiment tracker; '' where it did not answer
    primary key (scope, version)
);

create table model_verdict (
    verdict_id   bigint generated always as identity primary key,
    model_digest text not null,                    -- of the version it is evidence for; '' for none
    kind         text not null check (kind in ('expectations', 'drift', 'bias', 'clinical', 'live')),
    subject      text not null,
    outcome      text not null check (outcome in ('pass', 'fail', 'inconclusive')),
    digest       text not null,                    -- SHA-256 of body
    body         text not null,                    -- canonical JSON of vocabulary.verdict.Verdict; no patient data
    at_us        bigint not null
);
create unique index model_verdict_once on model_verdict (model_digest, digest);
create index model_verdict_newest on model_verdict (model_digest, kind, verdict_id desc);

create table approval_request (
    request_id      text primary key,              -- random
    site            text not null,
    scope           text not null,
    slot            text not null check (slot in ('champion', 'silent')),
    version         int not null,
    model_digest    text not null references model_version (model_digest),
    evidence_digest text not null,                 -- SHA-256 of evidence
    evidence        text not null,                 -- canonical JSON of governance.evidence.Evidence
    conditions      text not null,                 -- JSON list of sentences
    author          text not null,
    opened_at_us    bigint not null,
    opened_by       text not null,
    expires_at_us   bigint not null check (expires_at_us > opened_at_us),
    foreign key (scope, version) references model_version
);
create index approval_request_newest on approval_request (scope, opened_at_us desc);
create table approval_signature (
    signature_id   bigint generated always as identity primary key,
    request_id     text not null references approval_request,
    is_approval    boolean not null,               -- false: a rejection, with its reason
    person         text not null,                  -- issuer|subject
    role           text not null,
    signed         text not null default '',       -- JSON of governance.statements.Signed, for an approval
    reason         text not null default '',
    received_at_us bigint not null,
    check (is_approval = (signed <> '')),
    check (is_approval or reason <> '')
);
create unique index approval_signature_person on approval_signature (request_id, person) where is_approval;
create unique index approval_signature_role on approval_signature (request_id, role) where is_approval;
create index approval_signature_request on approval_signature (request_id, signature_id);

-- Which model serves: the truth. Columns are those of governance.statements.ServingRow.
create table serving (
    serving_id        bigint generated always as identity primary key,
    at_us             bigint not null,
    scope             text not null,
    slot              text not null check (slot in ('champion', 'silent')),
    action            text not null check (action in ('promote', 'restore', 'abstain', 'clamp', 'resume', 'withdraw')),
    version           int not null,
    model_digest      text not null,
    evidence_digest   text not null,
    request_id        text not null,
    signed            text not null default '[]',  -- JSON list of Signed
    restores          bigint not null default 0,
    cause             text not null default '',
    "by"              text not null,
    previous_digest   text not null default '',    -- of the scope's row before
    key_id            text not null,
    machine_signature text not null,
    unique (scope, previous_digest)                -- the record of a scope has no forks
);
create index serving_scope on serving (scope, serving_id);

create function serving_was_added() returns trigger language plpgsql as $$
begin
    perform pg_notify('serving', new.scope);
    return null;
end $$;
create trigger serving_is_announced after insert on serving
    for each row execute function serving_was_added();

-- What the models said: of the champion and of a silent candidate, on the stay's own clock.
create table risk_score (
    encounter_id   bigint not null,
    through_minute int not null,                   -- minutes since admission that counted
    slot           text not null check (slot in ('champion', 'silent')),
    model_digest   text not null,
    position       bigint not null,                -- log position of the commit that wrote it
    patient_id     bigint not null,
    serving_id     bigint not null default 0,      -- the row it was asked under
    at_us          bigint not null,                -- the log's clock
    probability    double precision,               -- null where it abstains
    low            double precision,
    high           double precision,
    abstention     text not null default '',
    is_high        boolean not null,
    primary key (encounter_id, through_minute, slot, model_digest, position)
);
create index risk_score_at on risk_score (at_us);
create index risk_score_patient on risk_score (patient_id, at_us desc);

-- Whether a stay ended in death, as known from a log position on; the newest row of a stay holds.
create table outcome (
    encounter_id bigint not null,
    known_from   bigint not null,
    outcome      text not null check (outcome in ('unknown', 'survived', 'died')),
    at_us        bigint not null,                  -- when the stay ended, or of the event that says what is known
    primary key (encounter_id, known_from)
);
create index outcome_at on outcome (at_us);

-- What went wrong with a model in service, and what was done at once. A person closes it.
create table incident (
    incident_id    bigint generated always as identity primary key,
    at_us          bigint not null,
    scope          text not null,
    slot           text not null,
    cause          text not null,
    statement      text not null default '',       -- one sentence for a person; no patient data
    verdict_digest text not null default '',       -- of the live verdict in model_verdict
    reaction       text not null,                  -- action of the serving row; '' where none was possible
    serving_id     bigint,                         -- that row
    model_digest   text not null default '',       -- of the model it was about
    opened_by      text not null,
    closed_at_us   bigint,
    closed_by      text not null default '',
    closing_note   text not null default '',
    check ((closed_at_us is null) = (closed_by = ''))
);
create index incident_open on incident (scope, cause) where closed_at_us is null;
create index incident_at on incident (at_us desc);

-- Append-only for everybody, the owner included; the function is that of the ledger.
create trigger model_version_is_append_only before update or delete or truncate on model_version
    for each statement execute function chain_refuses_change();
create trigger model_verdict_is_append_only before update or delete or truncate on model_verdict
    for each statement execute function chain_refuses_change();
create trigger approval_request_is_append_only before update or delete or truncate on approval_request
    for each statement execute function chain_refuses_change();
create trigger approval_signature_is_append_only before update or delete or truncate on approval_signature
    for each statement execute function chain_refuses_change();
create trigger serving_is_append_only before update or delete or truncate on serving
    for each statement execute function chain_refuses_change();
create trigger risk_score_is_append_only before update or delete or truncate on risk_score
    for each statement execute function chain_refuses_change();

-- The engine records on a chain of its own which serving rows it refused to follow.
create or replace function chain_writer_is_role() returns trigger language plpgsql as $$
declare
    stem text := substr(current_user, 7);          -- vigil_engine: engine
begin
    if left(current_user, 6) = 'vigil_' and
       stem = any (case tg_table_name
           when 'audit_event' then array['clinic', 'dagster', 'engine', 'keeper', 'normalizer', 'operator']
           else array['engine', 'keeper', 'normalizer', 'operator'] end) then
        if new.writer = stem or starts_with(new.writer, stem || '-') then
            return new;
        end if;
    elsif pg_has_role(current_user, (select relowner from pg_class where oid = tg_relid), 'usage') then
        return new;
    end if;
    raise exception 'role % may not append to the chain % of %', current_user, new.writer, tg_table_name
        using errcode = 'insufficient_privilege';
end $$;
