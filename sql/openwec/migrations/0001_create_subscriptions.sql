-- migrate:up
create table subscriptions (
  uuid text not null unique primary key,
  version text not null unique,
  name text not null unique,
  query text not null,
  heartbeat_interval int4,
  connection_retry_count int4,
  connection_retry_interval int4,
  max_time int4,
  max_envelope_size int4,
  enabled boolean,
  read_existing_events boolean,
  outputs text not null
);

-- migrate:down
drop table subscriptions;
