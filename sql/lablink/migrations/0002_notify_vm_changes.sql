-- migrate:up
-- A payload of NOTIFY has less than 8000 bytes (src/include/commands/async.h, NOTIFY_PAYLOAD_MAX_LENGTH), and one
-- that is longer fails the statement that the trigger belongs to. So the command, which has no bound, is cut there,
-- and "crd_command_truncated" says so; whoever needs all of it reads the row.
create function notify_vm_changes() returns trigger language plpgsql as $$
declare
  payload text := row_to_json(new)::text;
begin
  if octet_length(payload) > 7900 then
    payload := (row_to_json(new)::jsonb || jsonb_build_object(
      'crd_command', left(new.crd_command, 200),
      'crd_command_truncated', true
    ))::text;
  end if;
  perform pg_notify('vm_updates', payload);
  return new;
end
$$;
create trigger vm_update_trigger after insert or update on vms
  for each row execute function notify_vm_changes();

-- migrate:down
drop trigger vm_update_trigger on vms;
drop function notify_vm_changes();
