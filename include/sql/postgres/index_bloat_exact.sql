-- Purpose:  density of one b-tree index, measured. Reads all of it: ask for it, do not schedule it.
-- Source:   pgstatindex. A fresh index has a leaf density of about 90.
-- Rights:   pg_monitor (pg_stat_scan_tables); extension pgstattuple.
-- Versions: 14 to 18.
select index_size as bytes,
       leaf_pages,
       empty_pages,
       deleted_pages,
       avg_leaf_density as leaf_density_percent,
       leaf_fragmentation as fragmentation_percent
  from pgstatindex(%s::regclass);
