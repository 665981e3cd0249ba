-- summary: machines whose status is none of available, in-use and failed
select id, hostname, status from vms_of_unknown_status order by hostname
