-- Purpose:  how many rows a table has and the sum of their hashes, in so many parts (by the hash of the key): equal tables
--           have equal sums, whatever the order of their rows.
-- Source:   hashtextextended, the hash of hash partitioning; the same on servers of one version.
-- Rights:   SELECT on the table.
-- Versions: 14 to 18. {table} and {key} are filled in, quoted.
select (hashtextextended({key}::text, 0) & (%s - 1))::int as bucket,
       count(*) as row_count,
       sum(hashtextextended((r.*)::text, 1)::numeric) as total
  from {table} r
 group by 1;
