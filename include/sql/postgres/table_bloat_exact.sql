-- Purpose:  free room of one table, measured: skips pages that the visibility map knows to be full of live rows. Reads up
--           to the whole table: ask for it, do not schedule it.
-- Source:   pgstattuple_approx.
-- Rights:   pg_monitor (pg_stat_scan_tables); extension pgstattuple.
-- Versions: 14 to 18.
select table_len as bytes,
       scanned_percent,
       approx_tuple_count as live_rows,
       dead_tuple_count as dead_rows,
       dead_tuple_len as dead_bytes,
       approx_free_space::bigint as free_bytes,
       round((100 * (approx_free_space + dead_tuple_len) / nullif(table_len, 0))::numeric, 1)::float8 as waste_percent
  from pgstattuple_approx(%s::regclass);
