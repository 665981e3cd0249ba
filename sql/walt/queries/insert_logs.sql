-- summary: stores log lines in one go; those of a stream that is forgotten are left out
-- parameter: lines jsonb
-- changes: any
-- lines is [{"stream": 1, "time": seconds since 1970, "line": "..."}, ...]
-- A stream is held until they are stored: one that somebody forgets meanwhile is left out, too, and fails nothing.
with given as materialized (
  select stream, to_timestamp(time) as at, line
  from jsonb_to_recordset($1) as l (stream integer, time double precision, line text)
), held as materialized (
  select id from logstreams where id in (select stream from given) for key share
)
insert into logs (stream_id, timestamp, line)
select stream, at, line from given join held on id = stream
