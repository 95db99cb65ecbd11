-- The newest impressions of an order from one moment up to another.
-- Source: the guide's "Debug specific campaign issues". Changed: a range on the sort key in place of DATE(timestamp);
-- the columns are named, as SELECT * reads every column of a columnar table; LIMIT without ORDER BY gave any 100 rows.
-- Rights: SELECT on impressions. Provisioned and serverless.
select "timestamp", order_id, line_item_id, event_type, bid_price
from impressions
where "timestamp" >= %s and "timestamp" < %s and order_id = %s
order by "timestamp" desc
limit 100
