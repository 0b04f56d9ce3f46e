-- What an item waits for is several keys, one a line. The old index held them as one text: with many keys it was longer
-- than an index entry may be, and no search could use it.
drop index quarantine_item_waits;
create index quarantine_item_waits on quarantine_item using gin (string_to_array(waits_for, E'\n'))
    where state = 'open' and waits_for <> '';
