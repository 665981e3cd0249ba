-- requires: 13
-- migrate:up
create table vms (
  id serial primary key,
  hostname varchar(255) not null unique,
  email varchar(255),
  status varchar(50) not null,
  crd_command text,
  created_at timestamp default now(),
  updated_at timestamp default now()
);
create index vms_email_idx on vms (email);
create index vms_status_idx on vms (status);
create index vms_status_email_idx on vms (status, email);

-- migrate:down
drop table vms;
