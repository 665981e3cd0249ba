-- migrate:up
alter table subscriptions add column princs_filter_op text;
alter table subscriptions add column princs_filter_value text;

-- migrate:down
alter table subscriptions drop column princs_filter_op;
alter table subscriptions drop column princs_filter_value;
