-- summary: streams of logs, with how much each has and its newest line
select s.id, d.name as issuer, s.name as stream, s.mode, count(l.stream_id)::int as lines,
       max(l.timestamp) as newest
from logstreams s
left join devices d on d.mac = s.issuer_mac
left join logs l on l.stream_id = s.id
group by s.id, d.name
order by d.name, s.name
