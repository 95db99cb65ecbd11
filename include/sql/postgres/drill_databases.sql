-- Purpose:  databases that drills of this role have left behind; the value is what their names begin with.
-- Source:   pg_database.
-- Rights:   CONNECT.
-- Versions: 14 to 18.
select datname from pg_database where starts_with(datname, %s) and datdba = current_user::regrole order by 1;
