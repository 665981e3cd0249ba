-- summary: gives a machine back: nobody has it, and what it was started with is gone
-- parameter: hostname text
-- changes: one
update vms set status = 'available', email = null, crd_command = null
where hostname = $1
returning id, hostname, status
