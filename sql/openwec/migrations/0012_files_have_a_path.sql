-- note: rewrites the outputs of every subscription; the way back disables those that write files
-- migrate:up
-- A base, a depth by which addresses are split, and a name of a file become one path with placeholders:
-- {ip:3}/{ip} stands for 10.0.0/10.0.0.1.
create function pg_temp.path_of(files json) returns text language sql immutable as $$
  select case
    when files->>'path' is not null then files->>'path'
    else rtrim(files->>'base', '/') || '/'
      || coalesce((
           select string_agg('{ip:' || depth || '}/', '' order by depth)
             from generate_series((files->>'split_on_addr_index')::int, 3) as depth
         ), '')
      || '{ip}/{client}/'
      || case when (files->>'append_node_name')::boolean then '{node}/' else '' end
      || coalesce(files->>'filename', 'messages')
  end
$$;
update subscriptions set outputs = (
  select coalesce(
    json_agg(
      case when output->'driver'->'Files' is null then output
      else json_build_object(
        'format', output->'format',
        'driver', json_build_object('Files', json_build_object('path', pg_temp.path_of(output->'driver'->'Files'))),
        'enabled', output->'enabled')
      end order by position
    ), '[]')::text
    from json_array_elements(outputs::json) with ordinality as list(output, position)
);

-- migrate:down
-- A path cannot be taken apart again: such an output writes to / and is switched off; all others are switched on.
update subscriptions set outputs = (
  select coalesce(
    json_agg(
      case when output->'driver'->'Files' is null
      then json_build_object('format', output->'format', 'driver', output->'driver', 'enabled', true)
      else json_build_object(
        'format', output->'format',
        'driver', json_build_object('Files', json_build_object(
          'base', '/', 'split_on_addr_index', null, 'append_node_name', false, 'filename', 'messages')),
        'enabled', false)
      end order by position
    ), '[]')::text
    from json_array_elements(outputs::json) with ordinality as list(output, position)
);
