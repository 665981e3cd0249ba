-- summary: bookmarks of one subscription, by its name; without one a machine sends again, or is lost
-- parameter: subscription text
select b.machine, b.bookmark
from bookmarks b
join subscriptions s on s.uuid = b.subscription
where s.name = $1
order by b.machine
