// Mass deletion: taking opt-outs back, one or all, by whatever verb, header or statement. None of it reaches anybody who opted out:
// not with every scope that exists, and not with the password of the API's own database role.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { operationsOf, VERSIONS } from '../../api/versions.ts';
import { ADMINISTRATOR_SCOPES, KEY_SCOPES } from '../../ledger/contract/api-keys.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { withClient } from '../harness/database.ts';
import { problemOf, sendRaw } from '../harness/http.ts';
import { countRows } from './unchanged.ts';

const PEOPLE = 20;

let api: ServedToClients;
let id: string;
let everything: string;
let before: Record<string, number>;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
  for (let n = 0; n < PEOPLE; n += 1) {
    const { json } = await api.send('POST', '/v1/opt-outs', {
      key: api.key,
      body: { subject: { email: `person${n}@example.com` } },
    });
    id = json.id;
  }
  everything = (await api.makeKey({ client: 'shop', scopes: [...ADMINISTRATOR_SCOPES, ...KEY_SCOPES] }))
    .token;
  before = await countRows(api.t);
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

/** How many of those who opted out a sender would be told to leave alone. */
async function leftAlone(): Promise<number> {
  const items = Array.from({ length: PEOPLE }, (_, n) => ({
    subject: { email: `person${n}@example.com` },
    channel: 'email',
  }));
  const { json } = await api.send('POST', '/v1/checks', { key: api.key, body: { items } });
  return json.items.filter(({ reason }: { reason: unknown }) => reason === 'opted_out').length;
}

const PATHS = [
  ...new Set(
    Object.keys(VERSIONS)
      .flatMap(operationsOf)
      .map(({ path }) =>
        path.replace(':name', 'crm').replace(/:\w+/, '01990000-0000-7000-8000-000000000000'),
      ),
  ),
];

test.each(PATHS)('no verb deletes or replaces at %s, with every scope that there is', async (path) => {
  for (const method of ['DELETE', 'PUT', 'PATCH'] as const)
    for (const body of [undefined, {}, [], { scope: { email: false } }, [{ op: 'remove', path: '/scope' }]])
      expect((await api.send(method, path, { key: everything, body })).status).toBe(405);
  expect(await countRows(api.t)).toEqual(before);
});

test.each(['DELETE', 'PUT', 'PATCH'])(
  'a method in disguise is none: %s by header, by query and by body',
  async (method) => {
    for (const header of ['X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override']) {
      const read = await api.send('GET', `/v1/opt-outs/${id}`, {
        key: everything,
        headers: { [header]: method },
      });
      expect([read.status, read.json.id]).toEqual([200, id]);
      const posted = await api.send('POST', `/v1/opt-outs/${id}`, {
        key: everything,
        headers: { [header]: method },
      });
      expect(problemOf(posted)).toEqual([405, 'method-not-allowed']);
    }
    expect((await api.send('GET', `/v1/opt-outs/${id}?_method=${method}`, { key: everything })).json.id).toBe(
      id,
    );
    const body = { subject: { email: 'person0@example.com' }, _method: method };
    expect(problemOf(await api.send('POST', '/v1/opt-outs', { key: everything, body })).slice(0, 2)).toEqual([
      422,
      'invalid-value',
    ]);
    expect(await countRows(api.t)).toEqual(before);
  },
);

test.each(['PURGE', 'MOVE', 'COPY', 'LOCK', 'UNLINK', 'PROPPATCH', 'REBIND', 'SOURCE', 'TRACE', 'delete'])(
  'nor does %s',
  async (method) => {
    const [answer] = await sendRaw(
      api,
      `${method} /v1/opt-outs/${id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${everything}\r\nConnection: close\r\n\r\n`,
    );
    expect([400, 405]).toContain(answer!.status);
    expect(await countRows(api.t)).toEqual(before);
  },
);

test('an opt-out of nothing, or one that says false, takes nothing away', async () => {
  for (const scope of [{ email: false, sms: true }, { push: true }]) {
    const body = { subject: { email: 'person0@example.com' }, scope };
    expect((await api.send('POST', '/v1/opt-outs', { key: everything, body })).json.scope).toEqual({
      email: true,
      sms: true,
      push: true,
    });
  }
  expect(await leftAlone()).toBe(PEOPLE);
});

// Permissions are tested one by one in test/ledger/migrate.pg.test.ts. Here whatever is permitted is done as well, and does not
// help.
describe("with the password of the API's role", () => {
  test.each([
    'delete from subjects',
    'truncate subjects, decisions, opt_outs cascade',
    "update subjects set state = '{}'",
    "update subjects set state = '{}', version = version + 1",
    "update subjects set granted = state, state = '{}'",
    'update subjects set match_key = sha256(match_key)',
    'update subjects set pepper_id = pepper_id + 1',
    "update subjects set kind = 'phone'",
    'update subjects set id = gen_random_uuid()',
    "update decisions set suppressed = '{}'",
    'delete from decisions',
    'delete from opt_outs',
    'delete from opt_out_subjects',
    'delete from idempotency_keys',
    'delete from exceptions',
    'delete from workers',
    'update subjects set sealed = null',
    'update transport_keys set key = null',
    "update stores set scopes = '{}'",
    'update stores set paused_at = now()',
    'update opt_outs set first_completed_at = null',
    "set session_replication_role = 'replica'; update subjects set state = '{}'",
    'alter table subjects disable trigger all',
    'drop table subjects cascade',
    'drop schema public cascade',
    'alter table subjects owner to current_user',
    'create or replace function public.due() returns boolean language sql as $$ select false $$',
    'create temporary table subjects (id uuid)',
    'create schema shadow',
    'set role abide_owner; delete from subjects',
    'reset role; set session authorization abide_owner',
    "do $$ begin execute 'delete from subjects'; end $$",
    "copy subjects to program 'rm -rf /'",
    "copy subjects from program 'cat /dev/null'",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    'select pg_terminate_backend(pid) from pg_stat_activity where usename <> current_user',
    'alter system set fsync = off',
    'alter database postgres set default_transaction_read_only = on',
    'vacuum full subjects',
  ])('%s', async (statements) => {
    await withClient(api.t.db.urls.api, (client) => client.query(statements).catch(() => undefined));
    expect(await leftAlone()).toBe(PEOPLE);
    const after = await countRows(api.t);
    for (const table of ['subjects', 'opt_outs', 'decisions', 'audit_log'])
      expect([table, after[table]! >= before[table]!]).toEqual([table, true]);
  });
});
