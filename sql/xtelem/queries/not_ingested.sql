-- summary: files that were changed since they were read, or were never read
-- parameter: host text?
-- A file that was read by another program has no entry in file_ingests.
select o.origin_host, o.origin_path, o.size_bytes, o.modification_time, t.ingested_at, i.state
from file_origins o
left join file_ingests i using (origin_host, origin_path)
left join file_ingest_times t using (origin_host, origin_path)
where case when i.state = 'failed' then true
      when i.state is not null
        then (i.size_bytes, i.modification_time) is distinct from (o.size_bytes, o.modification_time)
      else t.ingested_at is null or t.ingested_at < o.modification_time end
  and ($1 is null or o.origin_host = $1)
order by o.origin_host, o.origin_path
