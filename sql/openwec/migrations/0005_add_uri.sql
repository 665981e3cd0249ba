-- migrate:up
alter table subscriptions add column uri text;

-- migrate:down
alter table subscriptions drop column uri;
