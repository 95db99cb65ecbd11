-- What Redshift's own Advisor recommends, with its statement.
-- Source: documentation of SVV_ALTER_TABLE_RECOMMENDATIONS. A recommendation disappears when it was applied.
-- Rights: superuser, or GRANT SELECT on the view. Provisioned and serverless.
select trim(type), table_id, trim(ddl), auto_eligible
from svv_alter_table_recommendations
