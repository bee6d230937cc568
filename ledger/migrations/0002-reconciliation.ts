import type { Knex } from 'knex';

const SQL = `
create table reconciliations (
  id bigint generated always as identity primary key,
  store_id smallint not null,
  generation integer not null,
  asked boolean not null,
  through bigint not null,
  cursor uuid not null,
  started_at timestamptz not null,
  compared bigint not null default 0,
  missing bigint not null default 0,
  older bigint not null default 0,
  resurrected bigint not null default 0,
  ahead bigint not null default 0,
  own bigint not null default 0,
  unread bigint not null default 0,
  finished_at timestamptz
);
comment on table reconciliations is 'Passes over a store: every subject whose newest decision it has confirmed, read back again.';
comment on column reconciliations.through is 'How far the store had verified when the pass began: what a pass without a difference proves.';
comment on column reconciliations.cursor is 'The last subject compared.';
comment on column reconciliations.own is 'Subjects of which the store suppresses more than was decided: its own doing, reported and left alone.';
comment on column reconciliations.unread is 'Subjects whose address was erased: where a store keeps them cannot be known any more.';
create unique index reconciliations_under_way on reconciliations (store_id) where finished_at is null;
create index reconciliations_by_store on reconciliations (store_id, id);
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
