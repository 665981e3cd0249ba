-- summary: the newest message of each device
select d.device, t.ts, t.ec, t.msg
from (select distinct device from telem) d
cross join lateral (
  select ts, ec, msg from telem where device = d.device order by ts desc limit 1
) t
order by d.device
