-- migrate:up
create table bookmarks (
  machine text not null,
  subscription text not null,
  bookmark text not null,
  primary key (machine, subscription),
  constraint fk_subscription foreign key (subscription) references subscriptions (uuid)
    on update cascade on delete cascade
);

-- migrate:down
drop table bookmarks;
