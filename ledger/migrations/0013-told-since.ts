import type { Knex } from 'knex';

const SQL = `
alter table stores add column told_since int not null default 1;
update stores set told_since = generation;
comment on column stores.told_since is
  'The first generation whose acknowledgements say what the store was told: in it, and since, it is what it was.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
