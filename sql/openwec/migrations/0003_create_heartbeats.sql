-- migrate:up
-- first_seen and last_seen are seconds since 1970.
create table heartbeats (
  machine text not null,
  ip text not null,
  subscription text not null,
  first_seen bigint,
  last_seen bigint,
  primary key (machine, subscription),
  constraint fk_subscription foreign key (subscription) references subscriptions (uuid)
    on update cascade on delete cascade
);

-- migrate:down
drop table heartbeats;
