-- The aggregates of some hours, made anew (:first to before :last), and of their days (:day to before :end).

delete from hourly_line_item_stats where hour >= cast(:first as timestamp) and hour < cast(:last as timestamp);

insert into hourly_line_item_stats
select hour, order_id, line_item_id, sum(requests), sum(impressions), sum(wins), sum(clicks), sum(spend)
from (
    select date_trunc('hour', "timestamp") as hour, order_id, line_item_id,
           1 as requests, 0 as impressions, 0 as wins, 0 as clicks, 0 as spend
    from bidstream_v2 where "timestamp" >= cast(:first as timestamp) and "timestamp" < cast(:last as timestamp)
    union all
    select date_trunc('hour', "timestamp"), order_id, line_item_id, 0, 1, 0, 0, 0
    from impressions where "timestamp" >= cast(:first as timestamp) and "timestamp" < cast(:last as timestamp)
    union all
    select date_trunc('hour', "timestamp"), order_id, line_item_id, 0, 0, 1, 0, win_price
    from wins where "timestamp" >= cast(:first as timestamp) and "timestamp" < cast(:last as timestamp)
    union all
    select date_trunc('hour', "timestamp"), order_id, line_item_id, 0, 0, 0, 1, 0
    from clicks where "timestamp" >= cast(:first as timestamp) and "timestamp" < cast(:last as timestamp)
) events
where order_id is not null and line_item_id is not null
group by hour, order_id, line_item_id;

delete from daily_campaign_stats where "date" >= cast(:day as date) and "date" < cast(:end as date);

insert into daily_campaign_stats
select cast(hour as date), order_id, sum(requests), sum(impressions), sum(wins), sum(clicks), sum(spend)
from hourly_line_item_stats where hour >= cast(:day as timestamp) and hour < cast(:end as timestamp)
group by cast(hour as date), order_id;

delete from creative_performance where "date" >= cast(:day as date) and "date" < cast(:end as date);

insert into creative_performance
select cast("timestamp" as date), creative_id, min(line_item_id), count(*),
       sum(case when event_type = 'click' then 1 else 0 end)
from impressions
where "timestamp" >= cast(:day as timestamp) and "timestamp" < cast(:end as timestamp) and creative_id is not null
group by cast("timestamp" as date), creative_id;

delete from audience_insights where "date" >= cast(:day as date) and "date" < cast(:end as date);

insert into audience_insights
select cast("timestamp" as date), segment_id, count(distinct user_id), count(*)
from dmp_events
where "timestamp" >= cast(:day as timestamp) and "timestamp" < cast(:end as timestamp) and segment_id is not null
group by cast("timestamp" as date), segment_id;
