import type { Knex } from 'knex';

// A file is kept in the ledger while its import runs, in sealed chunks: any API process that is alive carries it on, even on
// another machine. In a folder it would be lost with the machine, and only one process could read it.
const SQL = `
create table imports (
  id uuid primary key,
  client text not null,
  key_id text not null,
  key_lineage text not null,
  caller_address text not null,
  request_id text not null,
  state text not null check (
    state in ('receiving', 'awaiting_approval', 'pending', 'running', 'done', 'failed', 'cancelled')),
  format text not null check (format in ('csv', 'ndjson')),
  dry_run boolean not null,
  scopes text[],
  reason text not null,
  effective_at timestamptz,
  fingerprint bytea,
  is_kept boolean not null,
  bytes bigint not null,
  rows_total bigint not null,
  rows_done bigint not null,
  recorded bigint not null,
  already bigint not null,
  invalid bigint not null,
  errors_found bigint not null,
  created_at timestamptz not null,
  received_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  approved_by_client text,
  approved_by_key text,
  approved_at timestamptz,
  failure text,
  lease_holder text,
  lease_until timestamptz
);
-- The same file of the same client with the same parameters is the same import, unless that one came to nothing.
create unique index imports_once on imports (client, fingerprint)
  where state not in ('receiving', 'failed', 'cancelled');
create index imports_by_client on imports (client, id);
create index imports_to_carry on imports (id) where state in ('pending', 'running');
create index imports_kept on imports (id) where is_kept;
comment on column imports.fingerprint is
  'HMAC of the file''s SHA-256 and the parameters: the digest alone of a short list could be guessed.';
comment on column imports.is_kept is 'Chunks, or what a dry run has seen, are there still.';
comment on column imports.rows_done is 'Moves with what was recorded, in one transaction: each row counts once.';
comment on column imports.lease_until is 'Until then its holder carries it, or receives it; after that any process may.';

create table import_chunks (
  import_id uuid not null,
  n integer not null,
  sealed bytea not null,
  primary key (import_id, n)
);
-- What is sealed cannot be made smaller.
alter table import_chunks alter column sealed set storage external;

create table import_errors (
  import_id uuid not null,
  row_number bigint not null,
  position smallint not null,
  line bigint not null,
  field text,
  code text not null,
  primary key (import_id, row_number, position)
);
comment on table import_errors is 'Why a row was not taken: its number, its column and a code, never a value.';

create table import_seen (
  import_id uuid not null,
  match_key bytea not null,
  subject_id uuid not null,
  version bigint not null,
  state jsonb not null,
  granted jsonb not null,
  primary key (import_id, match_key)
);
comment on table import_seen is
  'What a dry run would have made of its subjects so far, so that a person who stands in the file twice counts once.';

alter table opt_outs add column import_id uuid;
comment on column opt_outs.import_id is 'The file that it came in.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
