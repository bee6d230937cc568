// Every command that looks at or changes a running Abide, as an operator types it.
import { once } from 'node:events';
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { hostname, tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess, Ran } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { VERSIONS } from '../../api/versions.ts';
import type { LagReport } from '../../ledger/contract/propagation-lag.ts';
import { eventually, SOON_MS } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import { createSend, WHEN_COMPLETE } from '../harness/http.ts';
import type { Ask } from '../harness/http.ts';
import { awayFromMidnight } from '../harness/midnight.ts';

let database: TestDatabase;
let abide: AbideProcess;

beforeAll(async () => {
  database = await emptyDatabase();
  const stanza = (table: string, rest: string): string =>
    `{ connector: postgres, url: '${database.urls.owner}', table: ${table}, scopes: [email, sms, push], ${rest} }`;
  abide = await startAbide({
    // A canary that came while a store is paused would be counted beside the person.
    config: `stores:\n  crm: ${stanza('suppressions', 'late_after_seconds: 1')}\n  old: ${stanza('old', 'required: false')}\n`,
  });
});
afterAll(async () => {
  await abide[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const run = (...args: string[]): Promise<Ran> =>
  runAbide(args, {
    ABIDE_DATA: abide.dataFolder,
    ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml'),
    ABIDE_URL: abide.url,
  });
const runJson = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await run(...args, '--json')).stdout) as T;

const optOut = async (email: string, headers: Ask['headers'] = WHEN_COMPLETE): Promise<void> => {
  const { status } = await createSend(abide.url)('POST', '/v1/opt-outs', {
    key: abide.key,
    headers,
    body: { subject: { email } },
  });
  expect(status).toBe(201);
};
const lag = async (): Promise<LagReport> =>
  (await createSend(abide.url)('GET', '/v1/propagation-lag', { key: abide.key })).json as LagReport;

type Entry = {
  seq: number;
  at: string;
  client: string;
  key_id: string;
  caller_address: string;
  action: string;
  resource: string;
  request_id: string;
  details: object;
};
const audited = async (action: string, resource: string): Promise<Entry[]> => {
  const { stdout } = await run('audit', '--action', action, '--json');
  const entries = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Entry);
  return entries.filter((entry) => entry.resource === resource);
};
const bySomebodyHere = {
  client: `cli:${userInfo().username}`,
  key_id: 'cli',
  caller_address: hostname(),
  request_id: expect.stringMatching(/^cli-\d+$/) as unknown,
};

test('check says yes by 0 and no by 3, and why', async () => {
  await optOut('ada@example.com');

  const [may, mustNot, text, unreadable, person, phone] = await Promise.all([
    run('check', 'grace@example.com'),
    run('check', ' ADA@example.com'),
    run('check', 'ada@example.com', '--channel', 'sms', '--json'),
    run('check', 'push_token:', '--channel', 'push'),
    run('check', 'person_id:4711', '--channel', 'push'),
    run('check', '+442071838750'),
  ]);
  expect(may).toMatchObject({ code: 0, stdout: 'may be sent: email to this email address\n' });
  expect(mustNot.code).toBe(3);
  expect(mustNot.stdout).toMatch(
    /^do not send: email to this email address, opted_out since \d{4}-\d\d-\d\dT[\d:.]+Z\n$/,
  );
  expect(text.code).toBe(3);
  expect(JSON.parse(text.stdout)).toMatchObject({
    items: [{ kind: 'email', scope: 'sms', allowed: false, reason: 'opted_out' }],
  });
  expect(unreadable.code).toBe(3);
  expect(unreadable.stdout).toMatch(
    /^do not send: push to this push token, invalid_item \(this is not an address, number,/,
  );
  expect(person).toMatchObject({ code: 0, stdout: 'may be sent: push to this person id\n' });
  expect(phone).toMatchObject({ code: 0, stdout: 'may be sent: sms to this phone number\n' });
});

test('a check without a channel is of the one that the identifier reaches', async () => {
  for (const [subject, scope] of [
    [{ phone: '+442071838751' }, 'sms'],
    [{ push_token: 'her-device' }, 'push'],
  ] as const) {
    const { status } = await createSend(abide.url)('POST', '/v1/opt-outs', {
      key: abide.key,
      body: { subject, scope: { [scope]: true } },
    });
    expect(status).toBe(201);
  }

  const [phone, token, email] = await Promise.all([
    run('check', '+44 20 7183 8751'),
    run('check', 'push_token:her-device'),
    run('check', '+442071838751', '--channel', 'email'),
  ]);
  expect([phone.code, phone.output]).toEqual([
    3,
    expect.stringMatching(/: sms to this phone number, opted_out/),
  ]);
  expect([token.code, token.output]).toEqual([
    3,
    expect.stringMatching(/: push to this push token, opted_out/),
  ]);
  expect(email).toMatchObject({ code: 0, output: 'may be sent: email to this phone number\n' });
});

test('no answer to a check is an error, never a yes', async () => {
  const nobody = `http://127.0.0.1:${await freePort()}`;

  const [refused, unknown] = await Promise.all([
    run('check', 'grace@example.com', '--url', nobody),
    run('check', 'grace@example.com', '--key', `${abide.key.slice(0, -1)}!`),
  ]);
  expect(refused).toMatchObject({ code: 1, stdout: '' });
  expect(refused.output).toMatch(/^abide: Nobody answers at http:.*ABIDE_URL/);
  expect(unknown).toMatchObject({ code: 1, stdout: '' });
  expect(unknown.output).toMatch(/^abide: The API answered 401: it does not know the key/);
});

// A command that could not print ended with 0: `abide gate >> gate.log && ./send-newsletter` sent on a full disk, whatever it was
// told, and half an audit log was a success.
test('what cannot be printed is no success, and a no that nobody reads is still a no', async () => {
  await optOut('full-disk@example.com');
  await using full = await open('/dev/full', 'w');
  const env = { ABIDE_DATA: abide.dataFolder, ABIDE_CONFIG: abide.configFile, ABIDE_URL: abide.url };
  const unread = async (...args: string[]): Promise<number | null> => {
    const { child, ended } = spawnAbide(args, env);
    child.stdout!.destroy();
    return await ended;
  };

  const [check, audit, checkUnread, auditUnread] = await Promise.all([
    runAbide(['check', 'full-disk@example.com'], env, full.fd),
    runAbide(['audit'], env, full.fd),
    unread('check', 'full-disk@example.com'),
    unread('audit'),
  ]);

  const failed = { code: 1, output: 'abide: The output cannot be written. (ENOSPC)\n' };
  expect([check, audit]).toMatchObject([failed, failed]);
  expect([checkUnread, auditUnread]).toEqual([3, 0]);
});

// `abide worker` knew nothing of PORT, and the other commands nothing of --data and of `listen` in abide.yaml.
test('where the API is is found in one way: --url, ABIDE_URL, PORT, or listen, whatever else abide.yaml says', async () => {
  const port = new URL(abide.url).port;
  const file = join(abide.dataFolder, 'broken.yaml');
  await writeFile(
    file,
    `stores: [ {\nlisten: "0.0.0.0:${port}" # every interface\n\tops_listen: 127.0.0.1:1\n`,
  );
  const lagOf = (env: Readonly<Record<string, string>>, ...args: string[]) =>
    runAbide(['lag', '--data', abide.dataFolder, ...args], { ABIDE_URL: '', PORT: '', ...env });

  const found = await Promise.all([
    lagOf({ ABIDE_CONFIG: file }),
    lagOf({ PORT: port }),
    lagOf({ PORT: '1', ABIDE_URL: abide.url }),
    lagOf({ PORT: '1', ABIDE_URL: 'http://127.0.0.1:2' }, '--url', abide.url),
  ]);
  expect(found.map(({ code, output }) => [code, output.split('\n')[1]])).toEqual(
    found.map(() => [0, expect.stringMatching(/^STORE/)]),
  );
  await writeFile(file, "listen: '[::1]:1'\n");
  expect((await lagOf({ ABIDE_CONFIG: file })).output).toContain('Nobody answers at http://[::1]:1:');
  expect((await lagOf({ ABIDE_CONFIG: file, PORT: '2' })).output).toContain('http://[::1]:2:');
  const worker = await runAbide(['worker', '--store', 'crm', '--key', abide.key], {
    ABIDE_URL: '',
    PORT: 'nonsense',
  });
  expect(worker.code).toBe(2);
  expect(worker.output).toContain('http://127.0.0.1:nonsense is not the URL of an API');
});

test('a key that is there and cannot be read is not said to be missing', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-keyless-'));
  const lagOf = () => runAbide(['lag', '--data', folder], { ABIDE_URL: abide.url });
  const missing = await lagOf();
  // Root may read any file, but not a folder as one.
  await mkdir(join(folder, 'admin.key'));
  const unreadable = await lagOf();
  await rm(folder, { recursive: true });

  expect([missing.code, unreadable.code]).toEqual([1, 1]);
  expect(missing.output).toContain(`No key: there is no ${folder}/admin.key`);
  expect(unreadable.output).toContain(
    `No key: ${folder}/admin.key cannot be read (EISDIR); run this as the user`,
  );
});

test('a paused store shows as paused, then late, and lag --fail-on late is 3 until it has caught up', async () => {
  expect((await run('lag', '--fail-on', 'late')).code).toBe(0);
  expect(await run('stores', 'pause', 'crm')).toMatchObject({ code: 0, output: 'paused crm\n' });
  // The lag may be a quarter of a second old.
  await eventually(async () => expect((await run('lag')).output).toMatch(/^crm +paused +0 s +0 /m));
  // The worker learns of it within a second; what is decided before that may still be carried.
  await eventually(() => expect(abide.output).toContain('paused, retired, taken over by another worker'));
  await optOut('paused@example.com', {});

  await eventually(async () => expect((await lag()).status).toBe('late'));
  const [late, json, doctor] = await Promise.all([
    run('lag', '--fail-on', 'late'),
    run('lag', '--json'),
    run('doctor'),
  ]);
  // The advice was to look into the log of a worker that is silent by order.
  expect(doctor.output).toMatch(
    /^look {2}lag of crm: late and paused, .*\n {6}Its opt-outs wait: run `abide stores resume`/m,
  );
  expect(late.code).toBe(3);
  expect(late.output).toMatch(/^\S+Z {2}late\n/);
  expect(late.output).toMatch(/^crm +late, paused +[\d.]+ s +1 /m);
  expect(late.output).toMatch(/^old \(optional\) +ok /m);
  expect(json.code).toBe(0);
  expect(JSON.parse(json.stdout)).toMatchObject({
    status: 'late',
    stores: [{ store: 'crm', paused: true, outstanding: 1 }, { store: 'old' }],
  });

  expect(await run('stores', 'resume', 'crm')).toMatchObject({ code: 0, output: 'resumed crm\n' });
  await eventually(async () => expect((await lag()).status).toBe('ok'));
  const [paused, resumed] = await Promise.all([
    audited('store.paused', 'crm'),
    audited('store.resumed', 'crm'),
  ]);
  expect(paused).toMatchObject([bySomebodyHere]);
  expect(resumed).toMatchObject([bySomebodyHere]);
});

// A database that was away ended it after half a minute.
test('lag --watch repeats, and goes on while nobody answers, or the API knows nothing', async () => {
  const unready = createServer((socket) =>
    socket.once('data', () => socket.end('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n')),
  ).listen(0, '127.0.0.1');
  await once(unready, 'listening');
  const watching = (url: string) =>
    spawnAbide(['lag', '--watch', '--json'], { ABIDE_URL: url, ABIDE_KEY: abide.key });
  const [there, nobody, unknown] = [
    watching(abide.url),
    watching(`http://127.0.0.1:${await freePort()}`),
    watching(`http://127.0.0.1:${(unready.address() as AddressInfo).port}`),
  ];

  await eventually(() => {
    expect(there.stdout().match(/"as_of"/g)?.length).toBeGreaterThan(1);
    expect(nobody.output().match(/Nobody answers/g)?.length).toBeGreaterThan(1);
    expect(unknown.output().match(/answered 503: how far behind the stores are/g)?.length).toBeGreaterThan(1);
  });
  for (const { child, ended } of [there, nobody, unknown]) {
    child.kill('SIGINT');
    await ended;
  }
  unready.close();
});

test('stores read asks the store itself, and finds by what was typed who is meant', async () => {
  await optOut('read@example.com');

  const [held, json, nothing, phone, noStore, noSubject] = await Promise.all([
    run('stores', 'read', 'crm', '--subject', 'Read@Example.com'),
    run('stores', 'read', 'crm', '--subject', 'email:read@example.com', '--json'),
    run('stores', 'read', 'crm', '--subject', 'nobody@example.com'),
    run('stores', 'read', 'crm', '--subject', '+442071838750', '--json'),
    run('stores', 'read', 'nope', '--subject', 'read@example.com'),
    run('stores', 'read', 'crm', '--subject', 'read.example.com', '--kind', 'email'),
  ]);
  expect(held).toMatchObject({ code: 0, output: 'suppressed: email, sms, push\nversion:    1\n' });
  expect(JSON.parse(json.stdout)).toEqual({ suppressed: ['email', 'sms', 'push'], version: 1 });
  expect(nothing).toMatchObject({ code: 3, output: 'crm holds nothing of this subject\n' });
  expect(phone).toMatchObject({ code: 3, stdout: 'null\n' });
  expect(noStore).toMatchObject({ code: 2, stdout: '' });
  expect(noStore.output).toContain('no store nope, only crm, old');
  expect(noSubject).toMatchObject({ code: 2, stdout: '' });
  expect(noSubject.output).toContain('is not an email address');
});

test('a key works as soon as it is printed and is refused within a second of its revocation', async () => {
  const created = await run('keys', 'create', '--client', 'shop', '--scope', 'lag:read', '--expires', '90d');
  const key = created.stdout.trim();
  const id = key.split('_')[2]!;
  const ask = async (): Promise<number> =>
    (await createSend(abide.url)('GET', '/v1/propagation-lag', { key })).status;
  expect(await ask()).toBe(200);

  expect(await run('keys', 'revoke', id)).toMatchObject({ code: 0, output: `revoked ${id}\n` });

  await eventually(async () => expect(await ask()).toBe(401), SOON_MS);
  const [again, table, listed] = await Promise.all([
    run('keys', 'revoke', id),
    run('keys', 'list'),
    run('keys', 'list', '--json'),
  ]);
  expect(again.code).toBe(3);
  // Security.md says that the list shows when a key expires; it did not.
  const expires = JSON.parse(listed.stdout)
    .find((one: { id: string }) => one.id === id)
    .expires_at.slice(0, 16);
  expect(table.output).toMatch(new RegExp(`^${id} +shop +- +20.* +${expires} +revoked +- +lag:read$`, 'm'));
  expect(listed.stdout + table.stdout).not.toContain(key.split('_')[3]!.slice(0, 20));
  expect(JSON.parse(listed.stdout)).toContainEqual({
    id,
    client: 'shop',
    scopes: ['lag:read'],
    store: null,
    rate_per_second: null,
    opt_outs_per_day: null,
    grants_per_day: null,
    checks_per_day: null,
    lineage: id,
    created_at: expect.any(String),
    expires_at: expect.any(String),
    revoked_at: expect.any(String),
    last_used_at: expect.any(String),
  });
  expect(await audited('key.created', id)).toMatchObject([
    { ...bySomebodyHere, details: { client: 'shop', scopes: ['lag:read'] } },
  ]);
  expect(await audited('key.revoked', id)).toMatchObject([bySomebodyHere]);
});

test('a key is rotated without downtime: the new one is the same client, and the old one ends after the overlap', async () => {
  const make = [
    '--client',
    'shop',
    '--scope',
    'opt_outs:write',
    '--expires',
    '90d',
    '--opt-outs-per-day',
    '500',
  ];
  const old = (await run('keys', 'create', ...make, '--rate', '100')).stdout.trim();
  const id = old.split('_')[2]!;
  const post = (key: string) =>
    createSend(abide.url)('POST', '/v1/opt-outs', {
      key,
      body: { subject: { email: 'turned@example.com' }, idempotency_key: 'before-and-after' },
    });
  const first = await post(old);
  expect(first.status).toBe(201);

  const rotated = await run('keys', 'rotate', id);

  expect(rotated.code).toBe(0);
  const key = rotated.stdout.trim();
  const newId = key.split('_')[2]!;
  expect(rotated.output).toMatch(new RegExp(`^${id} is valid until 20\\S+Z$`, 'm'));
  const [byNew, byOld] = await Promise.all([post(key), post(old)]);
  expect([byNew.status, byNew.text, byNew.headers['idempotency-replayed']]).toEqual([
    201,
    first.text,
    'true',
  ]);
  expect([byOld.status, byOld.text]).toEqual([201, first.text]);
  type Listed = { id: string; created_at: string; expires_at: string; lineage: string };
  const listed = await runJson<Listed[]>('keys', 'list');
  const [was, is] = [id, newId].map((one) => listed.find((each) => each.id === one)!);
  const { id: _id, created_at, expires_at, ...same } = is!;
  expect(same).toEqual({
    client: 'shop',
    scopes: ['opt_outs:write'],
    store: null,
    rate_per_second: 100,
    opt_outs_per_day: 500,
    grants_per_day: null,
    checks_per_day: null,
    lineage: id,
    revoked_at: null,
    last_used_at: expect.any(String),
  });
  const days = (Date.parse(expires_at) - Date.parse(created_at)) / 86_400_000;
  expect(days).toBeCloseTo(90, 2);
  expect(await audited('key.rotated', id)).toMatchObject([
    { ...bySomebodyHere, details: { to: newId, expires_at: was!.expires_at } },
  ]);
  // A day, minus what has passed since.
  expect(Date.parse(was!.expires_at) - Date.now()).toBeGreaterThan(86_300_000);

  expect((await run('keys', 'rotate', id, '--overlap', '0s')).code).toBe(0);
  await eventually(async () => expect((await post(old)).status).toBe(401), SOON_MS);
  expect((await post(key)).status).toBe(201);
  const again = await run('keys', 'rotate', id);
  // Standard output is for the key, and for a script that takes it.
  expect(again).toMatchObject({ code: 3, output: `no key ${id} is in use\n`, stdout: '' });
});

// Whoever lost the printed key types the command again. The second one died with the overlap of the first rotation.
test.each([
  ['90d', 90],
  [undefined, undefined],
])('a key rotated a second time lives as long as it was made for: %s', async (expires, days) => {
  const make = [
    '--client',
    'shop',
    '--scope',
    'checks:read',
    ...(expires === undefined ? [] : ['--expires', expires]),
  ];
  const id = (await run('keys', 'create', ...make)).stdout.split('_')[2]!;
  const lost = (await run('keys', 'rotate', id, '--overlap', '1h')).stdout.split('_')[2]!;

  const again = await run('keys', 'rotate', id, '--overlap', '1h');

  const newId = again.stdout.split('_')[2]!;
  type Listed = { id: string; created_at: string; expires_at: string | null };
  const made = (await runJson<Listed[]>('keys', 'list')).find((one) => one.id === newId)!;
  if (days === undefined) expect(made.expires_at).toBeNull();
  else expect((Date.parse(made.expires_at!) - Date.parse(made.created_at)) / 86_400_000).toBeCloseTo(days, 2);
  expect(again.output.includes(`${newId} expires at ${made.expires_at}\n`)).toBe(days !== undefined);
  expect(again.output).toContain(
    `${lost}, made by an earlier rotation, is still valid: \`abide keys revoke ${lost}\` if nobody has it\n`,
  );
  // Of keys that were rotated one after the other, none is nobody's.
  expect((await run('keys', 'rotate', newId)).output).not.toContain('before');
});

test('the limits of a key are changed in place, and the log says to what', async () => {
  const { id } = await runJson<{ id: string }>(
    ...['keys', 'create', '--client', 'shop', '--scope', 'checks:read', '--rate', '5'],
  );
  const limited = await run('keys', 'limit', id, '--checks-per-day', '9000', '--rate', 'none');

  expect(limited).toMatchObject({ code: 0, output: `${id}: 9000 checks/day\n` });
  expect((await run('keys', 'list')).output).toMatch(
    new RegExp(`^${id} .* - +valid +9000 checks/day +checks:read$`, 'm'),
  );
  expect(await audited('key.limited', id)).toMatchObject([
    { ...bySomebodyHere, details: { rate_per_second: null, checks_per_day: 9000 } },
  ]);
  expect(await run('keys', 'limit', 'nobodysKey00', '--rate', '5')).toMatchObject({ code: 3 });
});

test('what a spent budget refuses shows in the metrics, the log and the audit log', async () => {
  await awayFromMidnight();
  const { id, token } = await runJson<{ id: string; token: string }>(
    ...['keys', 'create', '--client', 'shop', '--scope', 'checks:read', '--checks-per-day', '1'],
  );
  const check = () => run('check', 'grace@example.com', '--key', token);
  expect((await check()).code).toBe(0);
  const refused = await check();
  expect(refused.code).toBe(1);
  expect(refused.output).toContain("today's budget of 1 checks");
  expect((await createSend(abide.url)('GET', '/metrics')).text).toContain(
    'abide_budget_exhausted_total{direction="check"} 1',
  );
  expect(abide.output).toContain('budget of the day is spent');
  expect(await audited('budget.exhausted', id)).toMatchObject([
    { client: 'shop', key_id: id, details: { direction: 'check', per_day: 1, spent: 1 } },
  ]);
});

test("a worker's key speaks for its store and no other", async () => {
  const { token, scopes, store } = await runJson<{ token: string; scopes: string[]; store: string }>(
    'keys',
    'create',
    '--client',
    'crm-worker',
    '--store',
    'crm',
  );

  expect({ scopes, store }).toEqual({ scopes: ['acknowledgements:write'], store: 'crm' });
  const ask = async (name: string): Promise<number> =>
    (await createSend(abide.url)('GET', `/v1/stores/${name}/outstanding`, { key: token })).status;
  expect(await ask('crm')).toBe(200);
  expect(await ask('old')).toBe(404);
});

test.each([
  [['keys', 'create'], "required option '--client <name>'"],
  [['keys', 'create', '--client', 'x'], 'name at least one --scope, or a --store'],
  [
    ['keys', 'create', '--client', 'x', '--scope', 'lag:read', '--rate', '0'],
    'Give a whole number, 1 or more',
  ],
  [['keys', 'limit', 'nobodysKey00'], 'name at least one limit'],
  [['keys', 'rotate', 'nobodysKey00', '--overlap', '1y'], 'Give a time such as 30m, 24h or 7d'],
  [['keys', 'create', '--client', 'x', '--scope', 'opt_outs'], 'Allowed choices are opt_outs:write'],
  [['keys', 'create', '--client', 'x', '--scope', 'acknowledgements:write'], '--store and the scope'],
  [['keys', 'create', '--client', 'x', '--scope', 'lag:read', '--store', 'crm'], '--store and the scope'],
  [['keys', 'create', '--client', 'x', '--store', 'nope'], 'no store is called nope; there are: crm, old'],
  [['keys', 'create', '--client', 'x', '--scope', 'lag:read', '--expires', '2001-01-01'], 'over already'],
  [
    ['keys', 'create', '--client', 'x', '--scope', 'lag:read', '--expires', '2027-02-31'],
    'Give a date (2027-01-01)',
  ],
  [
    ['keys', 'create', '--client', 'x', '--scope', 'lag:read', '--expires', 'soon'],
    'Give a date (2027-01-01)',
  ],
  [['keys', 'create', '--client', '', '--scope', 'lag:read'], 'Give a name of 1 to 128 characters'],
  [['keys', 'create', '--client', ' ', '--scope', 'lag:read'], 'Give a name of 1 to 128 characters'],
  [['keys', 'create', '--client', 'shop\u001b[2J', '--scope', 'lag:read'], 'without control characters'],
  [
    ['keys', 'create', '--client', 'shop\nadministrator', '--scope', 'lag:read'],
    'without control characters',
  ],
  [['keys', 'create', '--client', 'store:crm', '--scope', 'lag:read'], 'A name may not have a colon'],
  [['keys', 'create', '--client', 'login:shop', '--scope', 'lag:read'], 'A name may not have a colon'],
  [['reconcile', '--store', 'crm', '--dry-run'], '--dry-run goes with --after-restore'],
  [['stores', 'pause', 'nope'], 'no store is called nope; there are: crm, old'],
  [['stores', 'retire', 'old'], "required option '--reason <text>'"],
  [['stores', 'retire', 'old', '--reason', ' '], 'Say why'],
  [['lag', '--url', 'nonsense'], 'nonsense is not the URL of an API: give one such as http://127.0.0.1:8080'],
  [['gate', '--store', 'crm', '--url', '127.0.0.1:8390'], '127.0.0.1:8390 is not the URL of an API'],
  [['lag', '--fail-on', 'never'], 'Allowed choices are late'],
  [['check', '0041791234567', '--channel', 'sms'], 'a number with + and its country (+41791234567)'],
  [['check', 'tel:+41791234567'], 'such as person_id:4711'],
  [['stores', 'read', 'crm', '--subject', '4711'], 'such as person_id:4711'],
  [['check', 'ada@example.com', '--channel', 'fax'], 'Allowed choices are email, sms, push'],
  [['audit', '--limit', '0'], 'Give a whole number, 1 or more'],
  [['audit', '--since', '2027-02-31T00:00:00Z'], 'Give a time with an offset'],
  [['audit', '--until', 'yesterday'], 'Give a time with an offset'],
  [
    ['audit', '--since', '2026-11-24T10:00:00Z', '--until', '2026-11-24T09:00:00Z'],
    '--since must be before --until',
  ],
  [['audit', '--key', 'abide_live_whole'], 'takes the id of a key'],
  [['audit', '--after', 'yesterday'], 'Give a whole number, 0 or more'],
  [['versions', '--days', '401'], 'Give a whole number, 1 to 400'],
  [['stores'], 'Usage: abide stores'],
  [['nope'], "unknown command 'nope'"],
])('%j is wrong use: 2, and says what would be right', async (args, says) => {
  const { code, stdout, output } = await run(...args);

  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(output).toContain(says);
});

test('a log level that is none is wrong use', async () => {
  const { code, output } = await runAbide(['serve'], { ABIDE_LOG: 'loud', ABIDE_DATA: abide.dataFolder });

  expect({ code, output }).toEqual({
    code: 2,
    output: expect.stringContaining(
      'ABIDE_LOG must be one of fatal, error, warn, info, debug, silent',
    ) as unknown,
  });
});

test('refill carries everybody to the store again', async () => {
  await optOut('refill@example.com');
  const ofHer = async (statement: string): Promise<number | null> =>
    await withClient(database.urls.owner, async (client) => {
      const { rowCount } = await client.query(
        `${statement} from suppressions where key = 'refill@example.com'`,
      );
      return rowCount;
    });
  // Paused, so that nobody else notices that it is missing and drives it again.
  await run('stores', 'pause', 'crm');
  expect(await ofHer('delete')).toBe(1);
  const generation = async (): Promise<number> =>
    (await runJson<{ store: string; generation: number }[]>('stores', 'list')).find(
      ({ store }) => store === 'crm',
    )!.generation;
  const before = await generation();

  const refilled = await run('stores', 'refill', 'crm', '--reason', 'a row was deleted by hand');

  expect(refilled).toMatchObject({ code: 0, output: 'refilling crm: watch `abide lag --watch`\n' });
  expect(await generation()).toBe(before + 1);
  await run('stores', 'resume', 'crm');
  await eventually(async () => expect(await ofHer('select')).toBe(1));
  await eventually(async () => expect((await lag()).status).toBe('ok'));
  expect(await audited('store.refilled', 'crm')).toMatchObject([
    { ...bySomebodyHere, details: { generation: before + 1, reason: 'a row was deleted by hand' } },
  ]);
  // The clients' terminal: nobody has just opted out, so no line says so.
  expect(abide.output.match(/^r••@e••\.com recorded, crm verified /gm)).toHaveLength(2);
});

test('erase waits for the stores, and who is erased stays suppressed and makes no store late that is filled again', async () => {
  const erase = () => run('erase', 'erased@example.com');
  const stops = () => abide.output.split('paused, retired, taken over by another worker').length;
  const before = stops();
  await run('stores', 'pause', 'crm');
  await eventually(() => expect(stops()).toBe(before + 1));
  await optOut('erased@example.com', {});
  const early = await erase();
  expect([early.code, early.stdout, early.output]).toEqual([
    1,
    '',
    expect.stringContaining('/identifiers/0: crm has not confirmed it yet'),
  ]);
  await run('stores', 'resume', 'crm');
  await eventually(async () => expect((await lag()).status).toBe('ok'));

  expect(await erase()).toMatchObject({
    code: 0,
    output: 'e••@e••.com: erased; it stays suppressed: email, push, sms\n',
  });
  expect(await erase()).toMatchObject({
    code: 3,
    output: 'e••@e••.com: was erased before; it stays suppressed: email, push, sms\n',
  });
  expect(await run('erase', '+442071838750')).toMatchObject({
    code: 3,
    output: '+44••50: unknown: there is nothing to erase\n',
  });
  expect((await run('check', 'erased@example.com')).code).toBe(3);

  await run('stores', 'refill', 'crm', '--reason', 'to see who is missing');
  const ofCrm = async () => (await lag()).stores.find(({ store }) => store === 'crm');
  await eventually(async () => expect(await ofCrm()).toMatchObject({ absent: 1, backfill: null }));
  expect(await ofCrm()).toMatchObject({ status: 'ok', outstanding: 0, quarantined: 0 });
  expect(abide.output).not.toContain('erased@example.com');
});

test('a retired store leaves the lag, says so, and is in service again where abide.yaml still names it', async () => {
  const retired = await run('stores', 'retire', 'old', '--reason', 'replaced by crm');

  expect(retired.code).toBe(0);
  expect(retired.output).toContain('retired old: take it out of abide.yaml');
  expect(await audited('store.retired', 'old')).toMatchObject([
    { ...bySomebodyHere, details: { reason: 'replaced by crm' } },
  ]);
  await eventually(async () => expect((await lag()).stores.map(({ store }) => store)).toEqual(['crm']));
  const [pause, refill, retire, list] = await Promise.all([
    run('stores', 'pause', 'old'),
    run('stores', 'refill', 'old'),
    run('stores', 'retire', 'old', '--reason', 'again'),
    run('stores', 'list'),
  ]);
  for (const { code, output } of [pause, refill, retire]) {
    expect(code).toBe(3);
    expect(output).toMatch(/^old is retired, since 20/);
  }
  expect(list.output).toMatch(/^old +postgres +no +1 +retired /m);

  await abide.stop();
  await abide.start();

  expect((await run('stores', 'list')).output).toMatch(/^old +postgres +no +2 +(backfilling|in service) /m);
});

test('audit prints who did what, in order', async () => {
  const lines = (await run('audit', '--limit', '3')).output.trim().split('\n');
  expect(lines).toHaveLength(3);
  expect(lines[0]).toMatch(/^1 {2}20\S+Z {2}store\.added {2}crm {2}by abide {2}\{/);
  const next = await run('audit', '--after', '3', '--limit', '1', '--json');
  expect(JSON.parse(next.stdout)).toMatchObject({ seq: 4 });
});

// Only the oldest 100 rows were printed, without a word about the others: a leaked key looked as if it had stopped long ago.
test('audit prints all that was asked for, however much it is, and what a key did within a time', async () => {
  const db = await abide.connect();
  await db.query(
    `insert into audit_log (at, client, key_id, action, details)
     select '2020-01-01'::timestamptz + n * interval '1 s', 'leaky', case when n % 2 = 0 then 'leakedKey000' else 'anotherKey00' end,
       'test.done', '{}' from generate_series(1, 2500) n`,
  );
  await db.end();
  type Done = { seq: number; at: string; key_id: string };
  const read = async (...args: string[]): Promise<Done[]> => {
    const { code, stdout } = await run('audit', '--action', 'test.done', '--json', ...args);
    expect(code).toBe(0);
    return stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Done);
  };

  const all = await read();
  expect(all).toHaveLength(2500);
  expect(all.map(({ seq }) => seq)).toEqual(all.map((_, n) => all[0]!.seq + n));
  const of = ['--key', 'leakedKey000', '--since', '2020-01-01T00:10:00Z', '--until', '2020-01-01T00:20:00Z'];
  const within = await read(...of);
  expect([within.length, within[0]!.at.slice(0, 19), within.at(-1)!.at.slice(0, 19)]).toEqual([
    300,
    '2020-01-01T00:10:00',
    '2020-01-01T00:19:58',
  ]);
  expect(new Set(within.map(({ key_id }) => key_id))).toEqual(new Set(['leakedKey000']));
  expect(await read('--after', String(all[0]!.seq), '--limit', '1200')).toEqual(all.slice(1, 1201));
  expect((await run('audit', '--action', 'test.done')).stdout.match(/^\d+ {2}/gm)).toHaveLength(2500);
});

test('an API that takes the connection and says nothing: what is waited for is said, and Ctrl-C ends it', async () => {
  const silent = createServer().listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const ABIDE_URL = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  const { child, ended, output, stdout } = spawnAbide(['lag'], { ABIDE_URL, ABIDE_KEY: abide.key });
  await eventually(() => expect(output()).toContain(`abide: ${ABIDE_URL} does not answer yet`));
  child.kill('SIGINT');
  await ended;
  expect(stdout()).toBe('');
  silent.close();
});

test('audit says on standard error that there is no such entry, and a reader that has enough ends it', async () => {
  const none = await run('audit', '--action', 'opt_out.recoded', '--key', 'nobodysKey00');
  expect(none).toEqual({
    code: 0,
    stdout: '',
    output: 'abide: no entry of the audit log has --action opt_out.recoded --key nobodysKey00\n',
  });

  const { child, ended, output } = spawnAbide(['audit'], {
    ABIDE_DATA: abide.dataFolder,
    ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml'),
  });
  child.stdout!.once('data', () => child.stdout!.destroy());
  expect(await ended).toBe(0);
  expect(output()).not.toContain('abide: ');
});

test('versions says which versions there are, and which key used which of them how often', async () => {
  await awayFromMidnight();
  type Printed = {
    version: string;
    state: string;
    deprecated_at: string | null;
    requests: number;
    used_by: { client: string; key_id: string; requests: number; last_at: string }[];
  };
  const made = await runJson<{ id: string; token: string }>(
    ...['keys', 'create', '--client', 'shop', '--scope', 'checks:read'],
  );
  const check = () => createSend(abide.url)('POST', '/v1/checks', { key: made.token, body: { items: [] } });
  for (let n = 0; n < 3; n += 1) expect((await check()).status).toBe(200);

  const printed = await eventually(async () => {
    const all = await runJson<Printed[]>('versions', '--days', '1');
    expect(all[0]!.used_by).toContainEqual(expect.objectContaining({ key_id: made.id, requests: 3 }));
    return all;
  });
  expect(printed.map(({ version }) => version)).toEqual(Object.keys(VERSIONS));
  expect(printed[0]).toMatchObject({ version: 'v1', state: 'current', deprecated_at: null });
  expect(printed[0]!.used_by).toContainEqual({
    client: 'shop',
    key_id: made.id,
    requests: 3,
    last_at: expect.stringMatching(/^20\S+Z$/) as unknown,
  });
  expect(printed[0]!.requests).toBe(printed[0]!.used_by.reduce((sum, { requests }) => sum + requests, 0));

  const { output } = await run('versions', '--days', '1');
  expect(output).toMatch(/^VERSION {2}STATE .* REQUESTS TODAY\nv1 +current +- +- +\d+\n/);
  expect(output).toMatch(new RegExp(`^v1 +shop +${made.id} +3 +20\\S+Z$`, 'm'));
});
