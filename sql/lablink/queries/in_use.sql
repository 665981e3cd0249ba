-- summary: machines that somebody has, and who
select id, hostname, email, crd_command, updated_at from vms where status = 'in-use' order by hostname
