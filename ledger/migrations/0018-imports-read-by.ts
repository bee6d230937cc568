import type { Knex } from 'knex';

const SQL = `
alter table imports add column read_by jsonb not null default '{"topics": {}, "purposes": []}', add column repeats uuid;
alter table imports alter column read_by drop default;
comment on column imports.read_by is
  'What its rows are read by, as it was configured where the file was received: any process reads them so.';
comment on column imports.repeats is
  'The same file before, read otherwise: only the rows that were not taken then are read. Others may have been followed by a consent.';
drop index imports_once;
create unique index imports_once on imports (client, fingerprint, repeats) nulls not distinct
  where state not in ('receiving', 'failed', 'cancelled');
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
