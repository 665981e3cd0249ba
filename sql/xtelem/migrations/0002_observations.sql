-- migrate:up
create index observation_spans_fixup on telem (ts, (msg ->> 'obsName'))
  where device = 'observers' and msg ->> 'obsName' <> '';
-- From each moment at which an observer switches on to the next one at which he switches off, newest first. One
-- that goes on has no end.
create view observations as
with reported as (
  select ts, msg ->> 'email' as email, msg ->> 'obsName' as obsname, (msg ->> 'observing')::boolean as is_on,
         lag((msg ->> 'observing')::boolean) over (order by ts) as was_on
    from telem
   where device = 'observers' and msg ->> 'obsName' <> ''
), edges as (
  select ts, email, obsname, is_on, lead(ts) over (order by ts) as next_ts
    from reported
   where is_on is distinct from was_on and (is_on or was_on is not null)
)
select ts as start_ts, next_ts as end_ts, email, obsname
  from edges
 where is_on
 order by ts desc;

-- migrate:down
drop view observations;
drop index observation_spans_fixup;
