// A database that came back from a backup, beside a store that did not.
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { request } from 'undici';
import { runAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { emptyDatabase, freshDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend, WHEN_COMPLETE } from '../harness/http.ts';

let abide: AbideProcess;
let store: TestDatabase;

beforeAll(async () => {
  store = await emptyDatabase();
  abide = await startAbide({
    config: `topics: { email: [newsletter] }
stores:
  crm: { connector: postgres, url: '${store.urls.owner}', scopes: [email, sms, push] }
`,
  });
});
afterAll(async () => {
  await abide[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
});

async function post(path: string, body: object, headers = {}): Promise<{ status: number; text: string }> {
  const answer = await request(abide.url + path, {
    method: 'POST',
    headers: { authorization: `Bearer ${abide.key}`, 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
  return { status: answer.statusCode, text: await answer.body.text() };
}
const optOut = async (email: string, ...channels: string[]): Promise<void> => {
  const scope = Object.fromEntries(channels.map((channel) => [channel, true]));
  const { status, text } = await post('/v1/opt-outs', { subject: { email }, scope }, WHEN_COMPLETE);
  expect([status, text]).toEqual([201, expect.stringContaining('"state":"complete"')]);
};
const canSend = async (email: string, channel: string): Promise<boolean> => {
  const { text } = await post('/v1/checks', { items: [{ subject: { email }, channel }] });
  return (JSON.parse(text) as { items: { can_send: boolean }[] }).items[0]!.can_send;
};
const command = (...args: string[]) =>
  runAbide(args, {
    ABIDE_DATA: abide.dataFolder,
    ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml'),
    ABIDE_URL: abide.url,
  });

test('what came after the backup is recorded anew from the store, and no number is given out twice', async () => {
  await optOut('before@example.com', 'email');
  const { restore } = await abide.backUp();
  await optOut('after@example.com', 'email', 'sms');
  await optOut('before@example.com', 'push');
  await restore();
  expect(await canSend('after@example.com', 'email')).toBe(true);

  const restored = await command('ledger', 'restored');
  expect(restored.output).toContain('refilling crm');
  expect(restored.code).toBe(0);
  const counted = await command('reconcile', '--after-restore', '--dry-run', '--store', 'crm');
  expect([counted.code, counted.output]).toEqual([0, expect.stringContaining('3 would be recorded')]);
  expect(await canSend('after@example.com', 'email')).toBe(true);
  const adopted = await command('reconcile', '--after-restore', '--store', 'crm', '--json');
  expect(JSON.parse(adopted.stdout)).toEqual({ held: 4, known: 1, recorded: 3, others: 0, unread: 0 });

  for (const [email, ...channels] of [
    ['after@example.com', 'email', 'sms'],
    ['before@example.com', 'email', 'push'],
  ] as const)
    for (const channel of channels)
      expect([email, channel, await canSend(email, channel)]).toEqual([email, channel, false]);
  expect(await canSend('after@example.com', 'push')).toBe(true);

  // In the new generation everything is held and read back.
  await eventually(async () => {
    const answer = await request(`${abide.url}/v1/propagation-lag`, {
      headers: { authorization: `Bearer ${abide.key}` },
    });
    expect(await answer.body.json()).toMatchObject({
      status: 'ok',
      stores: [{ outstanding: 0, backfill: null }],
    });
  });
  await withClient(abide.databaseUrl('abide'), async (client) => {
    const { rows } = await client.query<{ least: string }>(
      `select min(seq) as least from decisions where recorded_at > (select at from audit_log where action = 'ledger.restored')`,
    );
    expect(Number(rows[0]!.least)).toBeGreaterThan(10_000_000);
  });
  const again = await command('reconcile', '--after-restore', '--store', 'crm', '--json');
  expect(JSON.parse(again.stdout)).toMatchObject({ held: 4, known: 4, recorded: 0 });
});

// The ledger's answer about the whole channel was "no, a topic is needed", and the opt-out from it was taken for known.
test('of somebody of whom a topic is known, the opt-out from the whole channel is recorded anew', async () => {
  const optOutOf = async (scope: string): Promise<void> => {
    const body = { identifiers: [{ email: 'topic@example.com' }], scopes: [scope] };
    const { status, text } = await post('/v2/opt-outs', body, WHEN_COMPLETE);
    expect([status, text]).toEqual([201, expect.stringContaining('"complete"')]);
  };
  const check = async (scope: string): Promise<unknown> => {
    const { text } = await post('/v2/checks', {
      items: [{ identifiers: [{ email: 'topic@example.com' }], scope }],
    });
    return (JSON.parse(text) as { items: { reason: string }[] }).items[0]!.reason;
  };
  await optOutOf('email/newsletter');
  const { restore } = await abide.backUp();
  await optOutOf('email');
  await restore();
  expect(await check('email')).toBe('topic_required');

  expect((await command('ledger', 'restored')).code).toBe(0);
  const adopted = await command('reconcile', '--after-restore', '--store', 'crm', '--json');

  expect(JSON.parse(adopted.stdout)).toMatchObject({ recorded: 1 });
  expect(await check('email')).toBe('opted_out');
});

test('what the store holds under no address is counted apart, and not as known to the ledger', async () => {
  const count = async (): Promise<{ known: number; unread: number }> =>
    JSON.parse(
      (await command('reconcile', '--after-restore', '--dry-run', '--store', 'crm', '--json')).stdout,
    );
  const before = await count();
  await withClient(store.urls.owner, (client) =>
    client.query("insert into suppressions (kind, key, email) values ('email', 'nobody', true)"),
  );
  expect([before.unread, await count()]).toEqual([
    0,
    expect.objectContaining({ known: before.known, unread: 1 }),
  ]);
});

// It went on with the keys and the stores that it had found when it started: a required store that the backup did not know was left
// out of the lag and of `complete`, and a pepper that it did not know was used.
test('a database that goes back under a running Abide ends it, and what starts in its place is right', async () => {
  await using ledger = await freshDatabase();
  const { owner, api, replication } = ledger.urls;
  const config = (stores: string) =>
    `database: '${api}'\nowner_database: '${owner}'\nreplication_database: '${replication}'\nstores:\n  crm: { connector: postgres, url: '${store.urls.owner}', table: one, scopes: [email] }\n${stores}`;
  const extra = `  extra: { connector: postgres, url: '${store.urls.owner}', table: two, scopes: [email] }\n`;
  const server = (sql: string) => withClient(store.superuserUrl, (client) => client.query(sql));
  const backup = `${ledger.name}_backup`;
  await using running = await startAbide({ config: config('') });
  await running.stop();
  await server(`create database ${backup} template ${ledger.name} owner abide_owner strategy file_copy`);
  await running.start(config(extra));
  // What was answered is missed at once; of the rest, what was in the database at a look, twice a second.
  const optOut = { key: running.key, body: { subject: { email: 'gone@example.com' } } };
  expect((await createSend(running.url)('POST', '/v1/opt-outs', optOut)).status).toBe(201);

  await server(`alter database ${ledger.name} allow_connections false`);
  // Dropping ends all sessions but the one that reads the stream.
  await server(
    `select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '${ledger.name}'`,
  );
  await server(`drop database ${ledger.name} with (force)`);
  await server(`alter database ${backup} rename to ${ledger.name}`);
  await eventually(() => {
    expect(running.isRunning).toBe(false);
    return Promise.resolve();
  });
  expect(running.output).toContain('(LEDGER_SET_BACK)');

  await running.start();
  expect(running.output).toContain('"msg":"the database went back in time: follow docs/runbook.md');
  const answer = await request(`${running.url}/v1/propagation-lag`, {
    headers: { authorization: `Bearer ${running.key}` },
  });
  const { stores } = (await answer.body.json()) as { stores: { store: string }[] };
  expect(stores.map((one) => one.store)).toEqual(['crm', 'extra']);
  const env = { ABIDE_DATA: running.dataFolder, ABIDE_CONFIG: running.configFile };
  const examined = async (): Promise<string> => (await runAbide(['doctor'], env)).output;
  expect(await examined()).toContain('the database went back in time');
  expect((await runAbide(['ledger', 'restored'], env)).code).toBe(0);
  expect(await examined()).not.toContain('went back');
});

test('a store that cannot tell whom it means says so', async () => {
  const none = await command('reconcile', '--after-restore', '--store', 'nowhere');
  expect([none.code, none.output]).toEqual([1, 'abide: The configuration has no store nowhere.\n']);
});
