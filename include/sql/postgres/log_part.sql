-- Purpose:  a piece of a log file (%s: name, first byte, bytes).
-- Source:   the function of grants_log.sql, which reads the log directory and nothing else.
-- Rights:   EXECUTE on it. Not on RDS, where the API is asked for the log.
-- Versions: 14 to 18.
select dbops.read_log(%s, %s, %s) as part;
