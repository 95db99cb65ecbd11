-- Impressions, clicks and spend of an order by line item and day, from one moment up to another.
-- Source: the guide's "Campaign performance analysis". Changed: DATE(timestamp) in the WHERE clause hides the range of
-- the sort key, so that the whole table is read; `timestamp` is the name of a type and quoted. The time is bounded
-- above too.
-- Rights: SELECT on impressions. Provisioned and serverless.
select order_id, line_item_id, trunc("timestamp") as day, count(*) as impressions,
       sum(case when event_type = 'click' then 1 else 0 end) as clicks, sum(bid_price) as total_spend
from impressions
where "timestamp" >= %s and "timestamp" < %s and order_id = %s
group by order_id, line_item_id, trunc("timestamp")
order by day desc, line_item_id
