// A client's mistaken mass opt-out, as an operator deals with it: marked, still suppressing, and a list of the people to ask.
import { readFile, stat, writeFile } from 'node:fs/promises';
import { hostname, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type pg from 'pg';
import { makeKeyRing } from '../../ledger/key-ring.ts';
import { runAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess, Ran } from '../harness/abide.ts';
import { createSend } from '../harness/http.ts';
import type { Answer } from '../harness/http.ts';

let abide: AbideProcess;
let db: pg.Client;
/** The key that went wrong. */
let culprit: { id: string; token: string };
let other: { id: string; token: string };

const run = (...args: string[]): Promise<Ran> => runWith({}, ...args);
const runWith = (env: Readonly<Record<string, string>>, ...args: string[]): Promise<Ran> =>
  runAbide(args, { ABIDE_DATA: abide.dataFolder, ABIDE_URL: abide.url, ...env });
const runJson = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await run(...args, '--json')).stdout) as T;
const makeKey = (client: string) =>
  runJson<{ id: string; token: string }>(
    ...['keys', 'create', '--client', client, '--scope', 'opt_outs:write', 'grants:write', 'checks:read'],
  );

const post = async (key: string, path: string, body: object, status = 201): Promise<Answer> => {
  const answer = await createSend(abide.url)('POST', path, { key, body });
  expect([answer.status, answer.text]).toEqual([status, answer.text]);
  return answer;
};
const optOut = (key: string, subject: object, scope?: object) =>
  post(key, '/v1/opt-outs', scope === undefined ? { subject } : { subject, scope });
/** The database's time: nothing about the window depends on the clock of this process. */
const now = async (): Promise<string> =>
  (
    await db.query<{ at: string }>(
      `select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at`,
    )
  ).rows[0]!.at;
const audited = async (action: string): Promise<Record<string, unknown>[]> =>
  (await run('audit', '--action', action, '--json')).stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

const ADDRESSES = ['ada@example.com', 'Grace@Example.com', 'knew@example.com'];
let window: [from: string, to: string];
let recordedIds: string[];

beforeAll(async () => {
  abide = await startAbide();
  db = await abide.connect();
  [culprit, other] = await Promise.all([makeKey('shop'), makeKey('shop')]);
  await optOut(culprit.token, { email: 'before@example.com' });
  await optOut(other.token, { email: 'knew@example.com' }, { email: true });
  const from = await now();
  const answers = [];
  for (const email of ADDRESSES) answers.push(await optOut(culprit.token, { email }));
  answers.push(await optOut(culprit.token, { phone: '+41791234567' }, { sms: true }));
  answers.push(await optOut(culprit.token, { person_id: '=1+cmd|"x";=2+cmd' }));
  answers.push(
    await post(culprit.token, '/v2/opt-outs', {
      identifiers: [{ email: 'both@example.com' }, { person_id: '-17' }],
      scopes: ['email'],
    }),
  );
  recordedIds = answers.map(({ json }) => json.id as string);
  // Of the same client and time, but honest.
  await optOut(other.token, { email: 'honest@example.com' });
  window = [from, await now()];
  await optOut(culprit.token, { email: 'after@example.com' });
});
afterAll(async () => {
  await db.end();
  await abide[Symbol.asyncDispose]();
});

const open = (...more: string[]) =>
  run(
    ...['disputes', 'open', '--key-id', culprit.id, '--from', window[0], '--to', window[1]],
    ...['--reason', 'the whole list was uploaded', ...more],
  );
const decisions = async (): Promise<number> => (await db.query('select from decisions')).rowCount!;

type Dispute = { id: string; opt_outs: number };
let dispute: Dispute;

test('open marks what the key recorded within the time and nothing else, lifts nothing, and is audited', async () => {
  const before = await decisions();

  const opened = await open('--json');

  expect(opened.code).toBe(0);
  dispute = JSON.parse(opened.stdout) as Dispute;
  const { rows } = await db.query<{ id: string }>(
    'select opt_out_id as id from disputed_opt_outs order by 1',
  );
  expect(rows.map(({ id }) => id)).toEqual(recordedIds);
  expect(dispute).toMatchObject({ key_id: culprit.id, client: 'shop', opt_outs: recordedIds.length });
  expect(await decisions()).toBe(before);
  const checked = await post(
    culprit.token,
    '/v1/checks',
    { items: ADDRESSES.map((email) => ({ subject: { email }, channel: 'sms' })) },
    200,
  );
  expect(checked.json.items.map((item: { can_send: boolean }) => item.can_send)).toEqual([
    false,
    false,
    false,
  ]);
  expect(await audited('dispute.opened')).toMatchObject([
    {
      client: `cli:${userInfo().username}`,
      caller_address: hostname(),
      resource: dispute.id,
      details: {
        key_id: culprit.id,
        client: 'shop',
        opt_outs: recordedIds.length,
        reason: 'the whole list was uploaded',
      },
    },
  ]);
});

test('list and show say what it is about', async () => {
  const [list, show, none] = await Promise.all([
    run('disputes', 'list'),
    run('disputes', 'show', dispute.id, '--json'),
    run('disputes', 'show', culprit.id),
  ]);
  expect(list.output).toMatch(
    new RegExp(`^${dispute.id} +${culprit.id} +shop +.* 6 +the whole list was`, 'm'),
  );
  expect(JSON.parse(show.stdout)).toMatchObject({
    id: dispute.id,
    opt_outs: 6,
    identifiers: 7,
    erased: 0,
    still_suppressed: 7,
  });
  expect(none).toMatchObject({ code: 3, output: `no dispute ${culprit.id}\n` });
  const asJson = await run('disputes', 'show', culprit.id, '--json');
  expect(asJson).toMatchObject({ code: 3, stdout: '', output: none.output });
});

test('export gives whom to ask about what, in a file that only its owner can read, and says so in the audit log', async () => {
  const file = join(abide.dataFolder, 'ask.csv');

  const exported = await run('disputes', 'export', dispute.id, '--output', file);

  expect(exported).toMatchObject({ code: 0, stdout: `${file} has whom to ask about 6 opt-outs\n` });
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  const text = await readFile(file, 'utf8');
  const [head, ...lines] = text.split('\r\n').slice(0, -1);
  expect(head).toBe('opt_out_id,kind,address,scopes,recorded_at,still_suppressed');
  const at = /,20\d\d-[-T:.\d]+Z,/;
  expect(lines.map((line) => line.replace(at, ',AT,'))).toEqual(
    [
      'email,ada@example.com,email sms push,AT,email push sms',
      'email,grace@example.com,email sms push,AT,email push sms',
      // She had opted out of email before, by another key.
      'email,knew@example.com,email sms push,AT,push sms',
      'phone,+41791234567,sms,AT,sms',
      // No spreadsheet runs what the client sent.
      `person_id,"'=1+cmd|""x"";'=2+cmd",email sms push,AT,email push sms`,
      'email,both@example.com,email,AT,email',
      `person_id,'-17,email,AT,email`,
    ].map((line, n) => `${recordedIds[Math.min(n, 5)]},${line}`),
  );
  const again = await run('disputes', 'export', dispute.id, '--output', file);
  expect(again).toMatchObject({ code: 1, stdout: '' });
  expect(again.output).toContain('ask.csv exists already');
  expect((await run('disputes', 'export', dispute.id)).stdout).toBe(text);
  const row = { resource: dispute.id, details: { opt_outs: 6 } };
  expect(await audited('dispute.exported')).toMatchObject([row, row]);
});

test('whoever lacks the key ring of the database gets no address', async () => {
  const { code, stdout, output } = await runWith(
    { ABIDE_KEYS: makeKeyRing() },
    ...['disputes', 'export', dispute.id],
  );

  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(output).toContain('KEYS_MISSING');
  expect(await audited('dispute.exported')).toHaveLength(2);
});

test('who was erased has no address in it, and whom only a later grant freed is no longer suppressed', async () => {
  await db.query(
    `update subjects set sealed = null where id in
       (select subject_id from opt_out_subjects where opt_out_id = $1)`,
    [recordedIds[0]],
  );
  await post(culprit.token, '/v2/grants', {
    identifier: { email: 'grace@example.com' },
    scopes: ['email', 'sms', 'push'],
    granted_at: new Date().toISOString(),
    evidence: { method: 'email', statement: 'That was not me.', source: 'mail of today' },
  });

  const [csv, show] = await Promise.all([
    run('disputes', 'export', dispute.id),
    runJson<{ erased: number; still_suppressed: number }>('disputes', 'show', dispute.id),
  ]);
  expect(csv.stdout).toMatch(
    new RegExp(`^${recordedIds[0]},email,,email sms push,20[^,]+,email push sms\\r$`, 'm'),
  );
  expect(csv.stdout).toMatch(
    new RegExp(`^${recordedIds[1]},email,grace@example.com,email sms push,20[^,]+,\\r$`, 'm'),
  );
  expect(show).toMatchObject({ erased: 1, still_suppressed: 6 });
});

// Found by reading: the export ended at that row, and nobody after it could be asked.
test('an address that was damaged is an empty one, which is said, and those after it are there', async () => {
  await db.query(
    `update subjects set sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) where id in
       (select subject_id from opt_out_subjects where opt_out_id = $1)`,
    [recordedIds[2]],
  );

  const { code, stdout, output } = await run('disputes', 'export', dispute.id);

  expect(code).toBe(0);
  expect(stdout).toMatch(new RegExp(`^${recordedIds[2]},email,,email`, 'm'));
  expect(stdout).toMatch(new RegExp(`^${recordedIds[3]},phone,\\+41791234567,sms`, 'm'));
  // The first one's is empty as well, because it was erased.
  expect(output).toContain('not erased but damaged in the database, and so empty: 1 of the addresses\n');
});

test.each([
  [() => ['--key-id', 'nobodysKey00'], 2, 'There is no key nobodysKey00'],
  [() => ['--to', window[0]], 2, '--from must be before --to'],
  [() => ['--to', '2999-01-01T00:00:00Z'], 2, 'The window must be over'],
  [() => ['--from', 'yesterday'], 2, 'Give a time with an offset'],
  [() => ['--reason', ' '], 2, 'Say why'],
  [() => ['--from', '2020-01-01T00:00:00Z', '--to', '2020-01-02T00:00:00Z'], 3, 'recorded no opt-out'],
  [() => ['--key-id', 'token:login', '--client', 'login:shop'], 3, 'recorded no opt-out'],
])('a dispute about nothing is none (%#)', async (args, code, says) => {
  const ran = await open(...args());
  expect([ran.code, ran.output]).toEqual([code, expect.stringContaining(says)]);
  expect((await db.query('select from disputes')).rowCount).toBe(1);
});

test('a file that cannot be written leaves nothing half-written', async () => {
  const folder = join(abide.dataFolder, 'no-folder');
  await writeFile(folder, '');
  const { code, stdout } = await run('disputes', 'export', dispute.id, '--output', join(folder, 'ask.csv'));
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
});
