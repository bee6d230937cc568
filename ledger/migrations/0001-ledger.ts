import type { Knex } from 'knex';

export const PUBLICATION = `
create publication abide for table
  decisions (seq, id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at, recorded_at,
             sealed, transport_key_id, traceparent),
  abide_heartbeat
  with (publish = 'insert')`;

// Times have no column defaults: every time is the database's clock, read by the statement that writes it, and captured
// columns with function defaults would turn into invented Avro defaults downstream.
//
// There are no foreign keys on the recording path: each would lock and re-read a row that the recording statement has
// just locked or written itself, and rows are only ever inserted. The trigger on `subjects` checks what matters.
const SQL = `
create table subjects (
  id uuid primary key,
  kind text not null check (kind in ('email', 'phone', 'push_token', 'person_id')),
  pepper_id bigint not null,
  match_key bytea not null,
  normal_form smallint not null,
  version bigint not null check (version > 0 and version < 9007199254740992),
  state jsonb not null,
  granted jsonb not null,
  sealed bytea,
  updated_at timestamptz not null,
  unique (match_key, pepper_id, kind)
);
comment on table subjects is 'One row an identifier of a person: the current state. Its row lock gives the version.';

create table opt_outs (
  id uuid primary key,
  requested_scopes text[] not null,
  effective_at timestamptz not null,
  effective_at_stated boolean not null,
  received_at timestamptz not null,
  recorded_at timestamptz not null,
  reason text not null,
  note bytea,
  client text not null,
  key_id text not null,
  api_version text not null,
  idempotency_key bytea,
  first_completed_at timestamptz
);
create index opt_outs_by_client on opt_outs (client, id);
comment on column opt_outs.idempotency_key is 'The caller''s key, sealed; what clients read back.';

create table opt_out_subjects (
  opt_out_id uuid not null,
  subject_id uuid not null,
  version bigint not null,
  state jsonb not null,
  primary key (subject_id, opt_out_id)
);
create index opt_out_subjects_by_opt_out on opt_out_subjects (opt_out_id);

create table decisions (
  seq bigint generated always as identity primary key,
  id uuid not null,
  cause text not null check (cause in ('opt_out', 'grant', 'reissue')),
  opt_out_id uuid,
  subject_id uuid not null,
  kind text not null,
  version bigint not null,
  suppressed jsonb not null,
  granted jsonb not null,
  effective_at timestamptz not null,
  recorded_at timestamptz not null,
  sealed bytea,
  transport_key_id bigint,
  traceparent text,
  unique (subject_id, version)
);
create index decisions_by_opt_out on decisions (opt_out_id);
comment on table decisions is 'Append-only, and the one captured table.';

create table acknowledgements (
  store_id smallint not null,
  generation integer not null,
  seq bigint not null,
  version bigint not null,
  outcome text not null check (outcome in ('verified', 'applied', 'superseded')),
  held jsonb,
  acknowledged_at timestamptz not null,
  latency_ms double precision not null,
  attempts integer not null,
  worker text not null,
  carried_by text not null,
  evidence jsonb,
  primary key (store_id, generation, seq)
) partition by range (seq);

create table exceptions (
  store_id smallint not null,
  generation integer not null,
  seq bigint not null,
  subject_id uuid not null,
  version bigint not null,
  speaks_from bigint not null,
  kind text not null check (kind in ('quarantine', 'redrive', 'absent')),
  code text,
  attempts integer not null,
  since timestamptz not null,
  next_try_at timestamptz not null,
  primary key (store_id, generation, seq)
);
create index exceptions_by_subject on exceptions (subject_id, store_id, generation);
-- Not led by the store: the planner would take it for the look-ups by sequence that are the primary key's.
create index exceptions_by_next_try on exceptions (next_try_at, store_id, generation);
comment on column exceptions.speaks_from is
  'The oldest decision of its subject that was not settled: an exception speaks for all from there to its own.';

create table stores (
  id smallint generated always as identity primary key,
  name text not null unique,
  generation integer not null,
  connector text not null,
  accepts text[] not null,
  scopes text[] not null,
  topics boolean not null,
  due_exact text[] not null,
  due_channels text[] not null,
  required boolean not null,
  evidence text not null check (evidence in ('read_back', 'applied', 'relay')),
  late_after_seconds double precision not null,
  added_at timestamptz not null,
  scanned_through bigint not null,
  target_fingerprint bytea not null,
  key_form text not null,
  incarnation text,
  backfill_fence bigint,
  backfill_after_xid xid8,
  backfill_live_through bigint,
  backfill_cursor uuid,
  backfill_started_at timestamptz,
  reconciled_through bigint,
  paused_at timestamptz,
  retired_at timestamptz,
  lease_holder text,
  lease_until timestamptz
);
comment on column stores.due_exact is 'Decided scopes that meet by name; see function due().';
comment on column stores.scanned_through is
  'Every decision at or below is acknowledged in this generation, or in exceptions; 0 while it is back-filled.';
comment on column stores.backfill_fence is
  'Set while the generation is back-filled: what the subjects hold at or below this seq goes by the cursor.';
comment on column stores.backfill_after_xid is
  'The fence is final, and the cursor may move, once no transaction at or below this one runs.';
comment on column stores.backfill_live_through is 'The mark of what is above the fence, until it becomes scanned_through.';

create table workers (
  store_id smallint not null,
  id text not null,
  last_seen_at timestamptz not null,
  report jsonb not null,
  primary key (store_id, id)
);

create table latency_buckets (
  store_id smallint not null,
  minute timestamptz not null,
  bucket smallint not null,
  count bigint not null,
  max_ms double precision not null,
  primary key (store_id, minute, bucket)
);

create table carried (
  store_id smallint not null,
  carried_by text not null,
  count bigint not null,
  primary key (store_id, carried_by)
);
comment on table carried is 'How many decisions came to each store by which way, since the beginning.';

create table idempotency_keys (
  client text not null,
  pepper_id bigint not null,
  key_hmac bytea not null,
  intent_hmac bytea not null,
  opt_out_id uuid not null,
  status smallint not null,
  answer bytea not null,
  created_at timestamptz not null,
  primary key (key_hmac, client, pepper_id)
);
create index idempotency_keys_by_age on idempotency_keys using brin (created_at);

create table api_keys (
  id text primary key,
  client text not null,
  secret_sha256 bytea not null,
  scopes text[] not null,
  store text,
  created_at timestamptz not null,
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);

create table transport_keys (
  id bigint primary key check (id between 1 and 4294967295),
  key bytea,
  created_at timestamptz not null,
  destroyed_at timestamptz
);

create table key_checks (
  key_id bigint not null,
  purpose text not null check (purpose in ('pepper', 'storage', 'signing')),
  check_value bytea not null,
  primary key (key_id, purpose)
);
comment on table key_checks is 'What tells the right key ring from another one: a value made with every key in use.';

create table abide_heartbeat (
  at timestamptz not null
);

create table audit_log (
  seq bigint generated always as identity primary key,
  at timestamptz not null,
  client text,
  key_id text,
  caller_address text,
  action text not null,
  resource text,
  request_id text,
  details jsonb not null
);

${PUBLICATION};

-- Whether a store must hold a decision: it accepts the kind, and a scope meets (suppression/scope.ts, meets()).
-- exact (stores.due_exact): its scopes and the channels of its topics; channels (stores.due_channels): its channels where it
-- can hold topics, else empty.
-- In two functions, because PostgreSQL inlines only one without a subquery: a catch-up cost the database 107 µs a row
-- with one, 50 with two.
create function due_by_topic(scopes jsonb, channels text[])
  returns boolean language sql immutable parallel safe
  return exists (
    select from jsonb_object_keys(scopes) scope
    where scope like '%/%' and split_part(scope, '/', 1) = any (channels));
create function due(kind text, suppressed jsonb, granted jsonb, accepts text[], exact text[], channels text[])
  returns boolean language sql immutable parallel safe
  return kind = any (accepts) and (
    suppressed ?| exact or granted ?| exact
    or (cardinality(channels) > 0 and due_by_topic(suppressed || granted, channels)));

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'insufficient_privilege';
end $$;
create trigger append_only before update or delete or truncate on decisions execute function refuse_change();
create trigger append_only before update or delete or truncate on audit_log execute function refuse_change();
create trigger never_deleted before delete or truncate on subjects execute function refuse_change();
create trigger never_deleted before delete or truncate on opt_outs execute function refuse_change();

-- Keeps whoever writes subjects honest (jsonb keeps its keys in one order, so equal sets are equal lists): a new state is a new version that its decision shows, and within a version
-- dates only widen. One check a statement, whatever the size of the batch.
create function subjects_match_decisions() returns trigger language plpgsql as $$
declare
  culprit uuid;
begin
  if tg_op = 'INSERT' then
    select n.id into culprit from now_rows n
      left join lateral (
        select * from decisions d where d.subject_id = n.id and d.version = n.version offset 0) d on true
      where d.seq is null or d.kind <> n.kind
         or array(select jsonb_object_keys(d.suppressed)) <> array(select jsonb_object_keys(n.state)) or array(select jsonb_object_keys(d.granted)) <> array(select jsonb_object_keys(n.granted))
      limit 1;
  else
    select n.id into culprit from now_rows n
      join old_rows o using (id)
      left join lateral (
        select * from decisions d where d.subject_id = n.id and d.version = n.version and n.version > o.version offset 0
      ) d on true
      where n.version < o.version or n.kind <> o.kind
         or (n.version > o.version and (d.seq is null
             or array(select jsonb_object_keys(d.suppressed)) <> array(select jsonb_object_keys(n.state)) or array(select jsonb_object_keys(d.granted)) <> array(select jsonb_object_keys(n.granted))))
         or (n.version = o.version and (n.granted <> o.granted or array(select jsonb_object_keys(n.state)) <> array(select jsonb_object_keys(o.state))
             or exists (select from jsonb_each(o.state) was where
                  n.state -> was.key ->> 'first_effective_at' > was.value ->> 'first_effective_at'
                  or n.state -> was.key ->> 'last_effective_at' < was.value ->> 'last_effective_at'
                  or n.state -> was.key ->> 'opt_out_id' <> was.value ->> 'opt_out_id')))
      limit 1;
    if culprit is null and (select count(*) from old_rows) <> (select count(*) from now_rows join old_rows using (id)) then
      raise exception 'a subject keeps its id' using errcode = 'check_violation';
    end if;
  end if;
  if culprit is not null then
    raise exception 'subject % is not what its decision says', culprit using errcode = 'check_violation';
  end if;
  return null;
end $$;
create trigger inserted_as_decided after insert on subjects referencing new table as now_rows
  for each statement execute function subjects_match_decisions();
create trigger updated_as_decided after update on subjects referencing old table as old_rows new table as now_rows
  for each statement execute function subjects_match_decisions();

-- Partitions of 10 million, made ahead by the API's process, whose role may not create tables.
create function make_acknowledgement_partitions(through bigint) returns void
  language plpgsql security definer set search_path from current as $$
declare
  size constant bigint := 10000000;
begin
  perform pg_advisory_xact_lock(hashtext('abide.acknowledgement_partitions'));
  for n in 0 .. (through / size + 1) loop
    if to_regclass(format('acknowledgements_%s', n)) is null then
      execute format('create table acknowledgements_%s partition of acknowledgements for values from (%s) to (%s)',
                     n, n * size, (n + 1) * size);
    end if;
  end loop;
end $$;
select make_acknowledgement_partitions(0);
`;

/** The whole ledger. */
export async function up(knex: Knex): Promise<void> {
  await knex.raw(SQL);
}

/** There is no way back: opt-outs are irreversible, and so is their ledger. */
export function down(): Promise<void> {
  return Promise.reject(new Error('The ledger cannot be migrated down: restore a backup instead.'));
}
