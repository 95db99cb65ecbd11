"""The platform's applications in small: the database of campaigns, its syncer to Aerospike, its ETL to Redshift.

`world` says which accounts, campaigns, line items, creatives and spend there are: the same for the same seed, of any
size, and with the same ids in all three systems. `database` makes and fills the PostgreSQL side, `mapping` says what of
it goes where in Aerospike, `dbops_lab.syncer` carries it there, `traffic` keeps changing it, `drift` breaks it on
purpose.
"""
