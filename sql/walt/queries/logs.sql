-- summary: log lines of one device in a span of time
-- parameter: device text
-- parameter: since timestamptz = yesterday
-- parameter: until timestamptz = now
select l.timestamp, s.name as stream, l.line
from logs l
join logstreams s on s.id = l.stream_id
join devices d on d.mac = s.issuer_mac
where d.name = $1 and l.timestamp >= $2 and l.timestamp < $3
order by l.timestamp
