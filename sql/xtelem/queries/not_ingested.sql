-- summary: files that were changed since they were read, or were never read
-- parameter: host text?
select o.origin_host, o.origin_path, o.size_bytes, o.modification_time, i.ingested_at
from file_origins o
left join file_ingest_times i using (origin_host, origin_path)
where (i.ingested_at is null or i.ingested_at < o.modification_time) and ($1 is null or o.origin_host = $1)
order by o.origin_host, o.origin_path
