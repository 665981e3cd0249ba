-- summary: forgets a machine; end the machine itself first
-- parameter: hostname text
-- deletes: one
delete from vms where hostname = $1 returning id, hostname, email, status
