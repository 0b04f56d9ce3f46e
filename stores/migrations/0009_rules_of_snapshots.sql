-- The site's rules that snapshots are made under (how often feeds speak, how far ahead devices' clocks may run), by
-- digest, and which of them each run was made under, so that any snapshot can be made again after the settings changed.
-- '' in runs from before this table: the rules of now are tried.
create table snapshot_rules (
    digest text primary key,
    body bytea not null
);
alter table snapshot_run add column rules text not null default '';
