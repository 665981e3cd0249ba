-- note: builds two indexes; telem cannot be written to meanwhile
-- migrate:up
create index telem_device_ec_ts on telem (device, ec, ts);
create index file_origins_modification_time on file_origins (modification_time);

-- migrate:down
drop index file_origins_modification_time;
drop index telem_device_ec_ts;
