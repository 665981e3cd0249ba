-- migrate:up
alter table subscriptions add column content_format text default 'RenderedText';

-- migrate:down
alter table subscriptions drop column content_format;
