-- migrate:up
-- Who changed which machine, and how. LabLink itself describes no such table: this one is ours, and writes nothing
-- until its triggers are enabled (the query audit_on). What starts a desktop is a key to it, so of crd_command there
-- is only whether it was set. Whoever owns the tables can change this one, too: it is a diary, not a proof.
create table vm_audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  by_role text not null default session_user,
  what text not null,
  hostname text,
  before jsonb,
  after jsonb
);
create index vm_audit_hostname_at_idx on vm_audit (hostname, at);
create index vm_audit_at_idx on vm_audit (at);

create function vm_audit_row(vm vms) returns jsonb language sql stable as $$
  select case when vm.id is not null
    then to_jsonb(vm) - 'crd_command' || jsonb_build_object('has_crd_command', vm.crd_command is not null) end
$$;
create function note_vm_change() returns trigger language plpgsql as $$
begin
  if tg_op = 'TRUNCATE' then
    insert into vm_audit (what) values (tg_op);
  else
    insert into vm_audit (what, hostname, before, after) values (
      tg_op,
      case when tg_op = 'DELETE' then old.hostname else new.hostname end,
      case when tg_op <> 'INSERT' then vm_audit_row(old) end,
      case when tg_op <> 'DELETE' then vm_audit_row(new) end
    );
  end if;
  return null;
end
$$;
create trigger vm_audit after insert or update or delete on vms for each row execute function note_vm_change();
create trigger vm_audit_truncate after truncate on vms for each statement execute function note_vm_change();
alter table vms disable trigger vm_audit, disable trigger vm_audit_truncate;

-- migrate:down
drop trigger vm_audit_truncate on vms;
drop trigger vm_audit on vms;
drop function note_vm_change();
drop function vm_audit_row(vms);
drop table vm_audit;
