-- The tables as WalT 4 makes them. It has no table of versions: what each file finds there already is asked by its probe.
-- probe: select to_regclass('devices') is not null and to_regclass('logstreams') is not null
-- migrate:up
create table devices (
  mac text primary key,
  ip text,
  name text,
  type text,
  virtual boolean default false
);
-- A cable has no direction: mac1 is the lower one. A port that is not known is null.
create table topology (
  mac1 text references devices (mac),
  port1 integer,
  mac2 text references devices (mac),
  port2 integer,
  confirmed boolean
);
create table images (
  fullname text primary key,
  ready boolean
);
create table nodes (
  mac text references devices (mac),
  image text references images (fullname),
  model text,
  booted boolean default false,
  netsetup integer default 0
);
create table switches (
  mac text references devices (mac),
  model text,
  snmp_conf text,
  lldp_explore boolean default false,
  poe_reboot_nodes boolean default false
);
create table switchports (
  mac text references devices (mac),
  port integer,
  name text,
  primary key (mac, port)
);
create table poeoff (
  mac text references devices (mac),
  port integer,
  reason text
);
create table logstreams (
  id serial primary key,
  sender_mac text references devices (mac),
  name text
);
create table logs (
  stream_id integer references logstreams (id),
  timestamp timestamp,
  line text
);
create table checkpoints (
  username text,
  timestamp timestamp,
  name text
);
create table vpnauth (
  vpnmac text primary key,
  pubkeycert text,
  certid text,
  device_label text,
  revoked boolean default false
);
create table vpnnodes (
  mac text references devices (mac),
  vpnmac text references vpnauth (vpnmac)
);
create index logs_timestamp_idx on logs (timestamp);
create index logs_stream_id_idx on logs (stream_id);
create index logstreams_sender_mac_name_idx on logstreams (sender_mac, name);
create index devices_ip_idx on devices (ip);
create index checkpoints_username_idx on checkpoints (username);

-- migrate:down
drop table vpnnodes, vpnauth, checkpoints, logs, logstreams, poeoff, switchports, switches, nodes, images, topology, devices;
