-- summary: subscriptions, and how many machines each has bookmarks of
select s.name, s.uuid, s.enabled, s.uri, count(b.machine)::int as machines
from subscriptions s
left join bookmarks b on b.subscription = s.uuid
group by s.uuid
order by s.name
