-- summary: machines that nobody has
select id, hostname, updated_at from vms where status = 'available' order by hostname
