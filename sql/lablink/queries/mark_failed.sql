-- summary: marks a machine that does not work; whose it is stays
-- parameter: hostname text
-- changes: one
update vms set status = 'failed' where hostname = $1 returning id, hostname, email, status
