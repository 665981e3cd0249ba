-- note: rewrites the outputs of every subscription
-- migrate:up
-- [{"Files": ["Json", {...}, true]}] becomes [{"format": "Json", "driver": {"Files": {...}}, "enabled": true}].
update subscriptions set outputs = (
  select coalesce(
    json_agg(
      json_build_object('format', value->0, 'driver', json_build_object(key, value->1), 'enabled', value->2)
      order by position
    ), '[]')::text
    from json_array_elements(outputs::json) with ordinality as list(output, position), json_each(output)
);

-- migrate:down
update subscriptions set outputs = (
  select coalesce(
    json_agg(
      json_build_object(key, json_build_array(output->'format', value, output->'enabled')) order by position
    ), '[]')::text
    from json_array_elements(outputs::json) with ordinality as list(output, position), json_each(output->'driver')
);
