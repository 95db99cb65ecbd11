-- Purpose:  what goose has done here: its newest row of each version says whether that is applied. A rollback deletes
--           the version's rows; early versions of goose add one with is_applied = false instead, which still may be there.
-- Source:   goose's table, https://github.com/pressly/goose: rows of a run are in the order of their ids; the first, with
--           version 0, is written with the table.
-- Rights:   SELECT on the table, which grants.sql gives.
-- Versions: 14 to 18.
select version_id as version, is_applied as applied, tstamp as at, id
  from (select distinct on (version_id) version_id, is_applied, tstamp, id
          from {table}
         order by version_id, id desc) as newest
 order by id;
