-- As in WalT 8: a stream has a mode, and an issuer instead of a sender; only images that are ready are known.
-- note: images that are not ready are deleted, unless a node uses them
-- probe: select exists (select from pg_attribute where attrelid = to_regclass('logstreams') and attname = 'issuer_mac' and not attisdropped)
-- migrate:up
create type logmode as enum ('line', 'chunk');
alter table logstreams add column mode logmode default 'line';
delete from images i where ready is false and not exists (select from nodes n where n.image = i.fullname);
alter table images drop column ready;
drop index logstreams_sender_mac_name_idx;
alter table logstreams rename column sender_mac to issuer_mac;
alter table logstreams rename constraint logstreams_sender_mac_fkey to logstreams_issuer_mac_fkey;
create index logstreams_issuer_mac_name_idx on logstreams (issuer_mac, name);

-- migrate:down
drop index logstreams_issuer_mac_name_idx;
alter table logstreams rename constraint logstreams_issuer_mac_fkey to logstreams_sender_mac_fkey;
alter table logstreams rename column issuer_mac to sender_mac;
create index logstreams_sender_mac_name_idx on logstreams (sender_mac, name);
alter table images add column ready boolean;
update images set ready = true;
alter table logstreams drop column mode;
drop type logmode;
