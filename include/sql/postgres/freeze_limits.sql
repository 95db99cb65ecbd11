-- Purpose:  the ages at which autovacuum freezes a table whatever else it does.
-- Source:   settings.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select current_setting('autovacuum_freeze_max_age')::bigint as xids,
       current_setting('autovacuum_multixact_freeze_max_age')::bigint as multixacts;
