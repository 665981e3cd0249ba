-- migrate:up
alter table subscriptions add column ignore_channel_error boolean default true;

-- migrate:down
alter table subscriptions drop column ignore_channel_error;
