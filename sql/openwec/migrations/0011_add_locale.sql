-- migrate:up
alter table subscriptions add column locale text;
alter table subscriptions add column data_locale text;

-- migrate:down
alter table subscriptions drop column locale;
alter table subscriptions drop column data_locale;
