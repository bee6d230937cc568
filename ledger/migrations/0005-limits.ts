import type { Knex } from 'knex';

const SQL = `
alter table api_keys
  add column rate_per_second integer check (rate_per_second > 0),
  add column opt_outs_per_day bigint check (opt_outs_per_day > 0),
  add column grants_per_day bigint check (grants_per_day > 0),
  add column checks_per_day bigint check (checks_per_day > 0),
  add column lineage text;
comment on column api_keys.rate_per_second is 'Calls a second of each class; null: what the configuration says. The same for the budgets of a day.';
comment on column api_keys.lineage is 'The first key of a row of rotations, under which budgets are counted; null: it is the first itself.';

create table budget_usage (
  key_id text not null,
  client text not null,
  day date not null,
  direction text not null check (direction in ('opt_out', 'grant', 'check')),
  spent bigint not null,
  exhausted_at timestamptz,
  primary key (key_id, client, day, direction)
);
comment on table budget_usage is 'What a key has spent of a day''s budget (UTC). The client stands beside it because all tokens of an issuer have one key id.';
comment on column budget_usage.exhausted_at is 'When it was refused first; from then on it is in the audit log.';

create table disputes (
  id uuid primary key,
  key_id text not null,
  client text not null,
  since timestamptz not null,
  until timestamptz not null,
  reason text not null,
  opened_at timestamptz not null,
  opened_by text not null
);
comment on table disputes is 'Opt-outs that a client is said to have made by mistake. They go on suppressing: only the person can take one back.';

create table disputed_opt_outs (
  dispute_id uuid not null,
  opt_out_id uuid not null,
  primary key (dispute_id, opt_out_id)
);
create index disputed_opt_outs_by_opt_out on disputed_opt_outs (opt_out_id);
create trigger append_only before update or delete or truncate on disputes execute function refuse_change();
create trigger append_only before update or delete or truncate on disputed_opt_outs execute function refuse_change();
`;

export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}
