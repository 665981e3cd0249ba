-- summary: all machines
select id, hostname, email, status, crd_command, created_at, updated_at from vms order by hostname
