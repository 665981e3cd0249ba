-- summary: devices, all or of one type
-- parameter: type text?
select mac, ip, name, type, virtual, conf from devices
where $1 is null or type = $1
order by type, name
