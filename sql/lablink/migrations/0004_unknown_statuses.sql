-- migrate:up
-- Reported, not refused: other programs write here, too.
create view vms_of_unknown_status as
  select id, hostname, status from vms where status not in ('available', 'in-use', 'failed');

-- migrate:down
drop view vms_of_unknown_status;
