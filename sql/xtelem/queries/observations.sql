-- summary: what was observed, and when, newest first
-- parameter: since timestamptz = -infinity
select start_ts, end_ts, end_ts - start_ts as duration, email, obsname
from observations
where end_ts is null or end_ts >= $1
order by start_ts desc
