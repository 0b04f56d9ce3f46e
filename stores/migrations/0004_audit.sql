-- Who did what: one hash-chained row an event, beside the ledger and of the same making (stores.chain).

-- The signature of the writer's key over `hash`; the last row of each append bears one, and vouches for all before it.
-- Rows written before there were keys have none, and hash as they always did.
alter table ledger_entry
    add column signature bytea check (octet_length(signature) = 64),
    add column key_id text,
    add constraint ledger_entry_signature_has_key check ((signature is null) = (key_id is null));

create table audit_event (
    writer         text not null,
    seq            bigint not null,
    at             timestamptz not null,
    action         text not null,
    outcome        text not null check (outcome in ('permitted', 'denied', 'failed')),
    surface        text not null,
    verb           text not null,
    agent          text not null,                  -- issuer|subject, or operator|user@host
    agent_name     text not null default '',
    role           text not null default '',
    purpose        text not null default '',
    patient_id     bigint,                         -- our own number
    rule           text not null default '',       -- row of the policy that decided
    policy         text not null default '',       -- first 16 hex digits of the policy's digest
    session        text not null default '',
    view           text not null default '',
    break_glass_id bigint,
    detail         text not null default '',       -- canonical JSON; no patient data
    previous_hash  bytea not null,
    hash           bytea not null,
    signature      bytea check (octet_length(signature) = 64),
    key_id         text,
    primary key (writer, seq),
    constraint audit_event_signature_has_key check ((signature is null) = (key_id is null))
);

create index audit_event_at on audit_event (at desc);
create index audit_event_of_patient on audit_event (patient_id, at desc) where patient_id is not null;
create index audit_event_of_agent on audit_event (agent, at desc);

-- Append-only for everybody, the owner included. A superuser can disable the trigger: `vigil verify` finds what he does.
create function chain_refuses_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
        using errcode = 'insufficient_privilege';
end $$;

create trigger ledger_entry_is_append_only before update or delete or truncate on ledger_entry
    for each statement execute function chain_refuses_change();
create trigger audit_event_is_append_only before update or delete or truncate on audit_event
    for each statement execute function chain_refuses_change();

-- A process appends to its own chains only: whoever steals the engine's credential cannot write audit rows with it.
create function chain_writer_is_role() returns trigger language plpgsql as $$
declare
    stem text := substr(current_user, 7);          -- vigil_engine: engine
begin
    if left(current_user, 6) = 'vigil_' and
       stem = any (case tg_table_name
           when 'audit_event' then array['clinic', 'keeper', 'normalizer', 'operator', 'dagster']
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

create trigger ledger_entry_writer_is_role before insert on ledger_entry
    for each row execute function chain_writer_is_role();
create trigger audit_event_writer_is_role before insert on audit_event
    for each row execute function chain_writer_is_role();
