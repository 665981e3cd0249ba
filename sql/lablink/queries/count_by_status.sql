-- summary: how many machines there are of each status
select status, count(*)::int as machines from vms group by status order by status
