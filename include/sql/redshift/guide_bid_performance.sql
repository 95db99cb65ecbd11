-- Bid requests, wins and prices by line item, from one moment up to another.
-- Source: the guide's "Performance troubleshooting". Changed: a range on the sort key in place of DATE(timestamp).
-- Rights: SELECT on bidstream_v2. Provisioned and serverless.
select line_item_id, count(*) as bid_requests, count(case when win_price > 0 then 1 end) as wins,
       avg(bid_price) as avg_bid, avg(win_price) as avg_win_price
from bidstream_v2
where "timestamp" >= %s and "timestamp" < %s
group by line_item_id
order by bid_requests desc
