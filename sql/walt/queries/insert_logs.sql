-- summary: stores log lines in one go; those of a stream that is forgotten are left out
-- parameter: lines jsonb
-- changes: any
-- lines is [{"stream": 1, "time": seconds since 1970, "line": "..."}, ...]
insert into logs (stream_id, timestamp, line)
select s.id, to_timestamp(l.time), l.line
from jsonb_to_recordset($1) as l (stream integer, time double precision, line text)
join logstreams s on s.id = l.stream
