import type { Knex } from 'knex';

const SQL = `
alter table exceptions add column asked integer not null default 0;
comment on column exceptions.asked is
  'How often another try was asked for since the last one failed. One that was given out before does not answer for it.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
