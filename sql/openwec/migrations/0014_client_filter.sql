-- migrate:up
alter table subscriptions rename column princs_filter_op to client_filter_op;
alter table subscriptions rename column princs_filter_value to client_filter_targets;
alter table subscriptions add column client_filter_kind text;
alter table subscriptions add column client_filter_flags int4;

-- migrate:down
alter table subscriptions drop column client_filter_flags;
alter table subscriptions drop column client_filter_kind;
alter table subscriptions rename column client_filter_targets to princs_filter_value;
alter table subscriptions rename column client_filter_op to princs_filter_op;
