-- summary: who changed which machine, and how, newest first; after audit_on
-- parameter: hostname text?
-- parameter: since timestamptz = -infinity
select at, by_role, what, hostname, before, after
from vm_audit
where ($1 is null or hostname = $1) and at >= $2
order by id desc
