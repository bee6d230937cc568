import type { Knex } from 'knex';

const SQL = `
create table canaries (
  kind text primary key,
  subject_id uuid not null,
  every_seconds double precision not null,
  issued_at timestamptz not null
);
comment on table canaries is 'Synthetic subjects, decided anew at an interval: they show that the way works while nobody opts out.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
