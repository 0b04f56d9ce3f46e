-- A stay's status, start and end as they were known at each log position. Its places alone cannot say: a stay may have
-- none, and then a snapshot from before the discharge could not be made again.
create table encounter_state (
    encounter_id  bigint not null references encounter,
    known_from    bigint not null,                 -- log position of the message that said so
    status        text not null check (status in ('in-progress', 'finished', 'cancelled')),
    started_at_us bigint not null,
    ended_at_us   bigint,
    primary key (encounter_id, known_from)
);
insert into encounter_state (encounter_id, known_from, status, started_at_us, ended_at_us)
select encounter_id, updated_position, status, started_at_us, ended_at_us from encounter;
