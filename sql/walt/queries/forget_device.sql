-- summary: forgets a device and all that is known of it; a VPN key of it stays, with its name
-- parameter: name text
-- deletes: one
with gone as (select mac from devices where name = $1),
  streams as (select id from logstreams where issuer_mac in (select mac from gone)),
  a as (delete from logs where stream_id in (select id from streams)),
  b as (delete from logstreams where id in (select id from streams)),
  c as (delete from nodes where mac in (select mac from gone)),
  d as (delete from switchports where mac in (select mac from gone)),
  e as (delete from switches where mac in (select mac from gone)),
  f as (delete from topology where mac1 in (select mac from gone) or mac2 in (select mac from gone)),
  g as (delete from poeoff where mac in (select mac from gone)),
  h as (
    update vpnauth set device_label = $1
    where vpnmac in (select vpnmac from vpnnodes where mac in (select mac from gone))
  ),
  i as (delete from vpnnodes where mac in (select mac from gone))
delete from devices where mac in (select mac from gone) returning mac, name, type
