-- As in WalT 5: settings of switches and nodes become those of a device.
-- note: images that no node uses are deleted; the way back does not bring them
-- probe: select exists (select from pg_attribute where attrelid = to_regclass('devices') and attname = 'conf' and not attisdropped)
-- migrate:up
alter table devices add column conf jsonb default '{}';
update devices d
   set conf = conf || jsonb_strip_nulls(jsonb_build_object(
         'lldp.explore', s.lldp_explore,
         'poe.reboots', s.poe_reboot_nodes,
         'snmp.version', s.snmp_conf::jsonb -> 'version',
         'snmp.community', s.snmp_conf::jsonb -> 'community'))
  from switches s where s.mac = d.mac;
update devices d
   set conf = conf || jsonb_strip_nulls(jsonb_build_object('netsetup', n.netsetup))
  from nodes n where n.mac = d.mac;
alter table switches drop column lldp_explore, drop column poe_reboot_nodes, drop column snmp_conf;
alter table nodes drop column netsetup;
delete from images i where not exists (select from nodes n where n.image = i.fullname);

-- migrate:down
alter table nodes add column netsetup integer default 0;
alter table switches add column snmp_conf text, add column lldp_explore boolean default false,
  add column poe_reboot_nodes boolean default false;
update nodes n set netsetup = (d.conf ->> 'netsetup')::integer from devices d where d.mac = n.mac;
update switches s
   set lldp_explore = (d.conf ->> 'lldp.explore')::boolean,
       poe_reboot_nodes = (d.conf ->> 'poe.reboots')::boolean,
       snmp_conf = nullif(jsonb_strip_nulls(jsonb_build_object(
         'version', d.conf -> 'snmp.version', 'community', d.conf -> 'snmp.community')), '{}')::text
  from devices d where d.mac = s.mac;
alter table devices drop column conf;
