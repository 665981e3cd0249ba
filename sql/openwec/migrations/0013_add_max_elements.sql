-- migrate:up
alter table subscriptions add column max_elements int4;

-- migrate:down
alter table subscriptions drop column max_elements;
