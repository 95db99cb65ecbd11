"""A stand-in for Amazon Redshift: a loopback proxy in front of the lab's PostgreSQL that speaks to the real driver.

`python -m dbops_lab.redshift --postgres-port 5432 --database warehouse --admin postgres` serves one database;
`dbops_lab.redshift.process.StandIn` does the same for a test. Every statement is rewritten for PostgreSQL or refused
with Redshift's error: what passes here is meant to pass there. `control` documents the faults that can be ordered,
`tables.sql` and `journal.sql` what is kept for the system views in `views`.

    lexer, rewrite, functions, types, ddl, users   SQL of Redshift read and rewritten
    statements                                     what a statement is, and what runs for it
    wire, handshake, session, backend, translate   the protocol, between the client and PostgreSQL
    actions, copy, unload, vacuum, append          what no statement of PostgreSQL does
    history, journal                               what STL_ and SYS_ views remember
    proxy, control, faults, process                the process, and how a test gives it orders

What it does not do as the real one: nothing happens in the background (no automatic VACUUM, ANALYZE, sort or table
optimisation), statements never wait in a queue, writers of one table do not wait for each other, `size` is
PostgreSQL's, plans of EXPLAIN are PostgreSQL's, averages of decimals have more digits, views WITH NO SCHEMA BINDING,
materialized views, procedures, external schemas, MERGE and datashares are refused.
"""
