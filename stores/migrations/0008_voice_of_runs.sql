-- Under which serving row a run's snapshots were made, so that any of them can be made again: the row's number, with a
-- word beside it where its model could not speak (twin.voice). '' where no model was in force.
alter table snapshot_run add column voice text not null default '';
