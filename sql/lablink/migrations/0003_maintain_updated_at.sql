-- migrate:up
create function set_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := now();
  return new;
end
$$;
create trigger vm_updated_at before update on vms for each row execute function set_updated_at();

-- migrate:down
drop trigger vm_updated_at on vms;
drop function set_updated_at();
