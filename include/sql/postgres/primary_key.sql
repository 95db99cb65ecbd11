-- Purpose:  columns of a table's primary key, in its order. None: it has no primary key.
-- Source:   pg_index; to_regclass would answer nothing for a table that is not there, the cast refuses.
-- Rights:   CONNECT, and USAGE on the schema.
-- Versions: 14 to 18.
select a.attname
  from pg_index i
  cross join unnest(i.indkey) with ordinality k(attnum, place)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
 where i.indrelid = %s::regclass
   and i.indisprimary
   and k.place <= i.indnkeyatts
 order by k.place;
