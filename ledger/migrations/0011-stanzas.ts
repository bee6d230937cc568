import type { Knex } from 'knex';

const SQL = `
alter table stores add column stanza bytea;
comment on column stores.stanza is
  'SHA-256 of what the configuration says of the store: only a worker that goes by the same carries to it.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
