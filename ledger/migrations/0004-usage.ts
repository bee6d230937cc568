import type { Knex } from 'knex';

const SQL = `
create table api_usage (
  day date not null,
  version text not null,
  key_id text not null,
  client text not null,
  count bigint not null,
  last_at timestamptz not null,
  primary key (day, version, key_id, client)
);
comment on table api_usage is 'Who used which version of the API on which day: whether one can be retired is read here.';
comment on column api_usage.key_id is 'Of an access token its issuer, token:NAME.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
