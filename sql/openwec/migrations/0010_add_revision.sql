-- migrate:up
alter table subscriptions add column revision text;

-- migrate:down
alter table subscriptions drop column revision;
