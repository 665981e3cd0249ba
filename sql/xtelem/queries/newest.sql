-- summary: the newest message of each device
-- From the newest of one device to that of the next by the index on (device, ts): there are few devices, and far
-- too many messages to read all. An order by ts alone can be had from the primary key, too, by reading nearly all.
with recursive newest as (
  (select device, ts, ec, msg from telem order by device desc, ts desc limit 1)
  union all
  select next.device, next.ts, next.ec, next.msg
  from newest n
  cross join lateral (
    select device, ts, ec, msg from telem where device < n.device order by device desc, ts desc limit 1
  ) next
)
select device, ts, ec, msg from newest order by device
