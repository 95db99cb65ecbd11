-- The warehouse's tables as the guide names them. Redshift has no partitions: what the guide calls so is the sort key.

create table bidstream_v2 (
    request_id varchar(36) not null encode zstd,
    "timestamp" timestamp not null encode raw,
    exchange varchar(32) encode bytedict,
    country char(2) encode bytedict,
    device varchar(16) encode bytedict,
    domain varchar(256) encode zstd,
    user_id varchar(36) encode zstd,
    order_id varchar(36) encode zstd,
    line_item_id varchar(36) encode zstd,
    creative_id varchar(36) encode zstd,
    bid_price decimal(12,4) encode az64,
    win_price decimal(12,4) encode az64
) diststyle key distkey (line_item_id) compound sortkey ("timestamp");

create table impressions (
    impression_id varchar(36) not null encode zstd,
    "timestamp" timestamp not null encode raw,
    request_id varchar(36) encode zstd,
    order_id varchar(36) encode zstd,
    line_item_id varchar(36) encode zstd,
    creative_id varchar(36) encode zstd,
    user_id varchar(36) encode zstd,
    country char(2) encode bytedict,
    event_type varchar(16) encode bytedict,
    bid_price decimal(12,4) encode az64
) diststyle key distkey (line_item_id) compound sortkey ("timestamp", order_id);

create table wins (
    win_id varchar(36) not null encode zstd,
    "timestamp" timestamp not null encode raw,
    impression_id varchar(36) encode zstd,
    request_id varchar(36) encode zstd,
    order_id varchar(36) encode zstd,
    line_item_id varchar(36) encode zstd,
    creative_id varchar(36) encode zstd,
    win_price decimal(12,4) encode az64
) diststyle key distkey (line_item_id) compound sortkey ("timestamp");

create table clicks (
    click_id varchar(36) not null encode zstd,
    "timestamp" timestamp not null encode raw,
    impression_id varchar(36) encode zstd,
    order_id varchar(36) encode zstd,
    line_item_id varchar(36) encode zstd,
    creative_id varchar(36) encode zstd,
    user_id varchar(36) encode zstd
) diststyle key distkey (line_item_id) compound sortkey ("timestamp", order_id);

create table users (
    sync_id varchar(36) not null encode zstd,
    "timestamp" timestamp not null encode raw,
    user_id varchar(36) encode zstd,
    partner varchar(32) encode bytedict,
    country char(2) encode bytedict,
    has_consent boolean
) diststyle key distkey (user_id) compound sortkey ("timestamp");

create table dmp_events (
    event_id varchar(36) not null encode zstd,
    "timestamp" timestamp not null encode raw,
    user_id varchar(36) encode zstd,
    segment_id integer encode az64,
    source varchar(32) encode bytedict
) diststyle key distkey (user_id) compound sortkey ("timestamp");

create table hourly_line_item_stats (
    hour timestamp not null encode raw,
    order_id varchar(36) not null encode zstd,
    line_item_id varchar(36) not null encode zstd,
    requests bigint encode az64,
    impressions bigint encode az64,
    wins bigint encode az64,
    clicks bigint encode az64,
    spend decimal(18,4) encode az64
) diststyle key distkey (line_item_id) compound sortkey (hour, order_id);

create table daily_campaign_stats (
    "date" date not null encode raw,
    order_id varchar(36) not null encode zstd,
    requests bigint encode az64,
    impressions bigint encode az64,
    wins bigint encode az64,
    clicks bigint encode az64,
    spend decimal(18,4) encode az64
) diststyle key distkey (order_id) compound sortkey ("date", order_id);

create table creative_performance (
    "date" date not null encode raw,
    creative_id varchar(36) not null encode zstd,
    line_item_id varchar(36) encode zstd,
    impressions bigint encode az64,
    clicks bigint encode az64
) diststyle key distkey (creative_id) compound sortkey ("date", creative_id);

create table audience_insights (
    "date" date not null encode raw,
    segment_id integer not null encode az64,
    users bigint encode az64,
    events bigint encode az64
) diststyle all compound sortkey ("date", segment_id);
