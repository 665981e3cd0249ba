-- summary: machines of one person
-- parameter: email text
select id, hostname, status, crd_command, updated_at from vms where email = $1 order by hostname
