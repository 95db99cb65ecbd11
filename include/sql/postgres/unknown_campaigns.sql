-- Purpose:  which of these campaign ids no campaign has, not even a deleted one.
-- Source:   the guide's "Cross-system consistency checks". Names are quoted; value: an array of ids.
-- Rights:   SELECT on the table, by the login of `sync.connection`.
-- Versions: 14 to 18.
select w.id
from unnest(%s::text[]) as w (id)
where not exists (select from {table} c where c.{id}::text = w.id)
order by w.id
