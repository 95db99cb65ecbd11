-- Purpose:  which server this is: initdb makes the number, and copies of the whole server share it.
-- Source:   pg_control_system.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select system_identifier from pg_control_system();
