-- requires: 14
-- migrate:up
create table telem (
  ts timestamptz not null,
  device varchar(50) not null,
  msg jsonb,
  prio varchar(8),
  ec varchar(20),
  primary key (ts, device)
);
create index telem_device_ts on telem (device, ts);
create table file_origins (
  origin_host varchar(50) not null,
  origin_path varchar(1024) not null,
  modification_time timestamptz,
  creation_time timestamptz,
  size_bytes bigint,
  primary key (origin_host, origin_path)
);
create table file_ingest_times (
  ts timestamptz,
  device varchar(50),
  ingested_at timestamptz,
  origin_host varchar(50),
  origin_path varchar(1024),
  unique (ts, device),
  foreign key (origin_host, origin_path) references file_origins (origin_host, origin_path)
);
-- The time of the original at which it was copied stands here on purpose: it may have moved on since.
create table file_replicas (
  hostname varchar(50),
  replica_path varchar(1024),
  origin_modification_time timestamptz,
  size_bytes bigint,
  origin_host varchar(50),
  origin_path varchar(1024),
  foreign key (origin_host, origin_path) references file_origins (origin_host, origin_path)
);

-- migrate:down
drop table file_replicas, file_ingest_times, file_origins, telem;
