import type { Knex } from 'knex';

const SQL = `
alter table stores add column own_scopes text[] not null default '{}';
comment on column stores.own_scopes is
  'What is recorded as an opt-out where the store suppresses it by itself; empty: nothing, it is only counted.';

alter table reconciliations add column recorded bigint not null default 0;
comment on column reconciliations.recorded is 'Opt-outs that the store had taken by itself and the pass recorded.';
comment on column reconciliations.own is 'Subjects of which the store suppresses more than was decided: its own doing.';

create table listings (
  store_id smallint primary key,
  generation integer not null,
  asked boolean not null,
  pages bigint not null default 0,
  through bytea,
  listed bigint not null default 0,
  recorded bigint not null default 0,
  unread bigint not null default 0,
  started_at timestamptz not null,
  finished_at timestamptz
);
comment on table listings is 'How far what a store itself lists was gone through, for people whom only the store knows.';
comment on column listings.through is 'The last one that was looked at, sealed: it is an address.';
comment on column listings.unread is 'Entries that are no address of their kind.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
