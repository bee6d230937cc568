-- The rows and locks of one recording transaction (ledger/record.ts), written singly by plain statements.
\set n random(1, 9000000000000000000)
begin isolation level read committed;
with locked as materialized (
  select id, match_key, version, state, granted from subjects
  where match_key = sha256(int8send(:n::bigint)) and pepper_id = 1 and kind = 'email' order by match_key for update
)
select (select json_agg(locked) from locked),
  (select json_agg(k) from idempotency_keys k
   where k.key_hmac = sha256(int8send(:n::bigint + 1)) and k.client = 'pgbench' and k.pepper_id = 1),
  pg_current_xact_id()::text, clock_timestamp();
with made as (select uuidv7() as opt_out, uuidv7() as subject, clock_timestamp() as now), decided as (
  insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at, recorded_at,
                         sealed, transport_key_id, traceparent)
  select uuidv7(), 'opt_out', opt_out, subject, 'email', 1,
    '{"email":"2026-11-24T09:00:00.000Z","sms":"2026-11-24T09:00:00.000Z","push":"2026-11-24T09:00:00.000Z"}', '{}',
    now, now, decode(repeat('a7', 55), 'hex'), 1, null from made returning seq
), subject as (
  insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, sealed, updated_at)
  select subject, 'email', 1, sha256(int8send(:n::bigint)), 1, 1,
    json_build_object(
      'email', json_build_object('first_effective_at', '2026-11-24T09:00:00.000Z', 'last_effective_at', '2026-11-24T09:00:00.000Z', 'opt_out_id', opt_out),
      'sms', json_build_object('first_effective_at', '2026-11-24T09:00:00.000Z', 'last_effective_at', '2026-11-24T09:00:00.000Z', 'opt_out_id', opt_out),
      'push', json_build_object('first_effective_at', '2026-11-24T09:00:00.000Z', 'last_effective_at', '2026-11-24T09:00:00.000Z', 'opt_out_id', opt_out)),
    '{}', decode(repeat('a7', 55), 'hex'), now from made
), opted as (
  insert into opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason, note,
                        client, key_id, api_version, idempotency_key)
  select opt_out, '{email,sms,push}', now, false, now, now, 'person_request', null, 'pgbench', 'pgbenchpgben', 'v1',
    decode(repeat('a7', 60), 'hex') from made
), bound as (
  insert into opt_out_subjects (opt_out_id, subject_id, version, state)
  select opt_out, subject, 1,
    json_build_object(
      'email', json_build_object('first_effective_at', '2026-11-24T09:00:00.000Z', 'last_effective_at', '2026-11-24T09:00:00.000Z', 'opt_out_id', opt_out),
      'sms', json_build_object('first_effective_at', '2026-11-24T09:00:00.000Z', 'last_effective_at', '2026-11-24T09:00:00.000Z', 'opt_out_id', opt_out),
      'push', json_build_object('first_effective_at', '2026-11-24T09:00:00.000Z', 'last_effective_at', '2026-11-24T09:00:00.000Z', 'opt_out_id', opt_out))
  from made
), remembered as (
  insert into idempotency_keys (client, pepper_id, key_hmac, intent_hmac, opt_out_id, status, answer, created_at)
  select 'pgbench', 1, sha256(int8send(:n::bigint + 1)), sha256(int8send(:n::bigint + 2)), opt_out, 201, decode(repeat('a7', 900), 'hex'), now from made
), audited as (
  insert into audit_log (at, client, key_id, caller_address, action, resource, request_id, details)
  select now, 'pgbench', 'pgbenchpgben', '127.0.0.1', 'opt_out.recorded', opt_out::text, uuidv7()::text,
    '{"scopes": ["email", "sms", "push"], "api_version": "v1"}' from made
)
select seq from decided;
commit;
