-- Telemetry as instruments write it: 200,000 rows of a fixed pattern, the same each time.
begin;
set local role ingest;

create table telem (
  ts timestamptz not null,
  device varchar(50) not null,
  msg jsonb not null,
  prio varchar(8),
  ec varchar(20),
  primary key (ts, device)
);
create index telem_device_ec_ts on telem (device, ec, ts);

-- Instruments write nanoseconds; a timestamptz has microseconds, so the text is cut, never rounded.
insert into telem (ts, device, msg, prio, ec)
select left(format('2026-03-14T02:15:40.%s', lpad(((n * 7919) % 1000000000)::text, 9, '0')), 26)::timestamp
         at time zone 'UTC' + n / 5 * interval '250 milliseconds',
       (array['observers', 'chiller', 'camsci1', 'loadmon', 'telpos'])[n % 5 + 1],
       case n % 5
         when 0 then jsonb_build_object('email', 'obs@example.org', 'obsName', format('HD %s lab', n / 5000), 'observing', n / 500 % 2 = 0)
         when 1 then jsonb_build_object('liquidTemp', 20 + n % 50 / 10.0, 'flowRate', 4.8, 'pumpLevel', 7, 'pumpSpeed', 5000 + n % 977, 'fanSpeed', 2700 + n % 61)
         when 2 then jsonb_build_object('mode', 'default', 'roi', jsonb_build_object('w', 1024, 'h', 1024, 'xbin', 1), 'exptime', 0.25, 'fps', 4.0, 'tempCtrl', jsonb_build_object('temp', -45.0 + n % 7 / 10.0, 'ontarget', true, 'statusStr', 'LOCKED'))
         when 3 then jsonb_build_object('loads', jsonb_build_array(n % 100 / 100.0, 0.4, 0.03, 1.0))
         else jsonb_build_object('epoch', 0.0, 'ra', 111.575541666667 + n / 1e7, 'dec', -29.013666666667, 'el', 89.9997, 'am', 1.0)
       end,
       'TELM',
       (array['telem_observer', 'telem_cooler', 'telem_stdcam', 'telem_coreloads', 'telem_telpos'])[n % 5 + 1]
  from generate_series(0, 199999) as n;

commit;
