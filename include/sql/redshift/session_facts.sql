-- The cluster's clock and this session's process: history is asked for by the first, a statement is cancelled by the
-- second.
-- Rights: none. Provisioned and serverless.
select sysdate, pg_backend_pid()
