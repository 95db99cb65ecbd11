-- Ends the statement that a session runs, and nothing else of it.
-- Rights: superuser or sys:operator for sessions of others. Provisioned and serverless.
select pg_cancel_backend(%s)
