"""A stand-in for Amazon Redshift: a loopback proxy in front of the lab's PostgreSQL that speaks to the real driver.

`python -m dbops_lab.redshift --port 0 --postgres 5432 ...` serves one database; `dbops_lab.redshift.process.StandIn`
does the same for a test. Every statement is rewritten for PostgreSQL or refused with Redshift's error: what passes
here is meant to pass there. `control` documents the faults that can be ordered, `views` and `tables.sql` what the
system views show.
"""
