-- summary: machines that have not been heard of for some time
-- parameter: longer_than interval = 1 hour
select h.machine, s.name as subscription, h.ip, to_timestamp(h.last_seen) as last_seen,
       to_timestamp(h.last_event_seen) as last_event_seen
from heartbeats h
join subscriptions s on s.uuid = h.subscription
where to_timestamp(h.last_seen) < now() - $1
order by h.last_seen
