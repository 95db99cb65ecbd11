-- Purpose:  key and hash of each row in some of the parts of row_sums.
-- Source:   as row_sums.
-- Rights:   SELECT on the table.
-- Versions: 14 to 18. {table} and {key} are filled in, quoted.
select {key}::text as row_key,
       hashtextextended((r.*)::text, 1) as row_hash
  from {table} r
 where (hashtextextended({key}::text, 0) & (%s - 1))::int = any(%s);
