import type { Knex } from 'knex';

// An opt-out of several identifiers of one person, and the person's own later consent. Nothing here has a default that is
// captured: the columns are of tables that no reader of the stream sees.
const SQL = `
alter table opt_out_subjects add column position smallint not null default 0;
comment on column opt_out_subjects.position is 'In the order in which the request named them.';

alter table opt_outs add column regimes text[] not null default '{}', add column evidence bytea;
comment on column opt_outs.evidence is 'How the person asked, as JSON, sealed.';

alter table idempotency_keys add column api_version text not null default 'v1';
comment on column idempotency_keys.api_version is 'Whose words the answer has: a retry by another version is answered in its own.';

create table grants (
  id uuid primary key,
  subject_id uuid not null,
  version bigint not null,
  requested_scopes text[] not null,
  lifted_scopes text[] not null,
  granted_at timestamptz not null,
  received_at timestamptz not null,
  recorded_at timestamptz not null,
  evidence bytea not null,
  client text not null,
  key_id text not null,
  api_version text not null,
  idempotency_key bytea
);
create index grants_by_subject on grants (subject_id, granted_at);
create trigger never_changed before update or delete or truncate on grants execute function refuse_change();
comment on table grants is 'The person''s own later consent, with its evidence: the only thing that takes a suppression away.';
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
