import type { Knex } from 'knex';

const SQL = `
alter table stores add column backfill_moved_at timestamptz;
update stores set backfill_moved_at = clock_timestamp() where backfill_fence is not null;
comment on column stores.backfill_moved_at is
  'When the back-fill last passed somebody, or began: those whom it has not reached are outstanding at least since then.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
