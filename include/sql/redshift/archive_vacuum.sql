-- Purpose: give back the space of deleted days, once for a table.
-- Source:  https://docs.aws.amazon.com/redshift/latest/dg/r_VACUUM_command.html; 100: or less than 5 % would stay.
-- Rights:  owner of the table or of the database, superuser; without, it does nothing and says so in a notice.
-- Works:   provisioned and serverless.
vacuum delete only {table} to 100 percent
