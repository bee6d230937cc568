import type { Knex } from 'knex';

// By time alone, each store's poll walked through what is overdue at all others, for ever at one that is paused. And led by the store
// itself, the planner would take the index for the look-ups by sequence that are the primary key's.
const SQL = `
create index exceptions_by_store_and_try on exceptions (((store_id::bigint << 32) | generation), next_try_at);
drop index exceptions_by_next_try;
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
