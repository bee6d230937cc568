import type { Knex } from 'knex';

const SQL = `
create index audit_log_reissued on audit_log (resource, at) where action = 'subject.reissued';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
