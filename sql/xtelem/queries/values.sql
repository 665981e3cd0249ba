-- summary: values of one key of a device in a span of time
-- parameter: device text
-- parameter: key text
-- parameter: since timestamptz = yesterday
-- parameter: until timestamptz = now
select ts, ec, msg -> $2 as value
from telem
where device = $1 and ts >= $3 and ts < $4 and msg ? $2
order by ts
