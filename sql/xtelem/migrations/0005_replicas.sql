-- note: builds two indexes on file_replicas; it cannot be written to meanwhile
-- migrate:up
-- Folders to which a host copies its files, as <prefix>/<host>/<path>.
create table replicas (
  hostname varchar(50) not null,
  prefix varchar(1024) not null,
  added_at timestamptz not null default now(),
  primary key (hostname, prefix)
);
create unique index file_replicas_path on file_replicas (hostname, replica_path);
create index file_replicas_origin on file_replicas (origin_host, origin_path);

-- migrate:down
drop index file_replicas_origin, file_replicas_path;
drop table replicas;
