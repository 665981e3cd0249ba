-- sqlite: 14
-- migrate:up
update subscriptions set client_filter_kind = 'Client' where client_filter_op is not null;

-- migrate:down
-- The column goes with the next one down.
