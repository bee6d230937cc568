import type { Knex } from 'knex';

const SQL = `
alter table stores add column target_since timestamptz not null default clock_timestamp();
update stores set target_since = added_at;
comment on column stores.target_since is
  'Since when the name means this store: what somebody granted before may be older than what it suppresses by itself.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
