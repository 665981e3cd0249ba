-- migrate:up
-- What became of each file: of the version of it that had this size and this time. Without sha256 it is not known
-- which bytes those were.
create table file_ingests (
  origin_host varchar(50) not null,
  origin_path varchar(1024) not null,
  state varchar(8) not null check (state in ('whole', 'open', 'partial', 'same', 'failed')),
  reason text,
  device varchar(50),
  size_bytes bigint,
  modification_time timestamptz,
  sha256 text,
  rows bigint not null default 0,
  known bigint not null default 0,
  conflicts bigint not null default 0,
  rejects bigint not null default 0,
  tried_at timestamptz not null,
  tried_by text not null,
  primary key (origin_host, origin_path),
  foreign key (origin_host, origin_path) references file_origins (origin_host, origin_path) on delete cascade
);
-- Lines that are no row, and why; of a file that is full of them, the first ten thousand.
create table file_rejects (
  origin_host varchar(50) not null,
  origin_path varchar(1024) not null,
  line bigint not null,
  reason text not null,
  content text not null,
  primary key (origin_host, origin_path, line),
  foreign key (origin_host, origin_path) references file_origins (origin_host, origin_path) on delete cascade
);

-- migrate:down
drop table file_rejects, file_ingests;
