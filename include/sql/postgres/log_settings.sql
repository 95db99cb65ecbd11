-- Purpose:  how the server logs: into what, and what stands before each entry.
-- Source:   current_setting.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select current_setting('logging_collector') = 'on' as collected,
       current_setting('log_destination') as destinations,
       current_setting('log_line_prefix') as prefix,
       current_setting('lc_messages') as language,
       current_setting('log_statement') as statements;
