-- summary: how large the tables are, with their indexes
select c.relname as table, pg_total_relation_size(c.oid) as bytes, c.reltuples::bigint as about_rows
from pg_class c
where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
order by bytes desc
