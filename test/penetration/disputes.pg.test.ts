// Disputes: the one place that writes down plain addresses, and the one that says that opt-outs are doubtful. Nobody may use it to
// take an opt-out back, to hide one, or to read addresses. What it does is in test/cli/disputes.pg.test.ts.
import { lstat, mkdir, readFile, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type pg from 'pg';
import { ADMINISTRATOR_SCOPES } from '../../ledger/contract/api-keys.ts';
import { runAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess, Ran } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend } from '../harness/http.ts';
import type { Answer, Send } from '../harness/http.ts';

let abide: AbideProcess;
let db: pg.Client;
let send: Send;
type Key = { id: string; token: string };
/** The key that went wrong, one of the same client, and one of another client. */
let culprit: Key;
let colleague: Key;
let stranger: Key;
let window: readonly [from: string, to: string];
let dispute: string;
let before: readonly Seen[];

const run = (...args: string[]): Promise<Ran> =>
  runAbide(args, { ABIDE_DATA: abide.dataFolder, ABIDE_URL: abide.url });
const makeKey = async (client: string): Promise<Key> =>
  JSON.parse(
    (await run('keys', 'create', '--client', client, '--scope', ...ADMINISTRATOR_SCOPES, '--json')).stdout,
  ) as Key;
const now = async (): Promise<string> =>
  (
    await db.query<{ at: string }>(
      `select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at`,
    )
  ).rows[0]!.at;

type Seen = readonly [call: string, status: number, text: string];
const PEOPLE = ['victim@disputes.example', 'bystander@disputes.example', 'nobody@disputes.example'];

/** Everything that clients are told of the people and their opt-outs, except the time of the answer. */
async function everythingTold(): Promise<readonly Seen[]> {
  const told: Seen[] = [];
  const add = (call: string, { status, headers, text }: Answer): void =>
    void told.push([
      call,
      status,
      text.replaceAll(headers['x-request-id']!, '').replaceAll(/"as_of":"[^"]+"/g, ''),
    ]);
  for (const { token: key } of [culprit, colleague, stranger]) {
    for (const version of ['v1', 'v2']) {
      const list = await send('GET', `/${version}/opt-outs?limit=100`, { key });
      add(`list ${version}`, list);
      for (const { id } of list.json.opt_outs as { id: string }[])
        for (const more of ['', '/propagation'])
          add(`read ${version}${more}`, await send('GET', `/${version}/opt-outs/${id}${more}`, { key }));
      for (const email of PEOPLE) {
        const one = version === 'v1' ? { subject: { email } } : { identifier: { email } };
        add(`look up ${version}`, await send('POST', `/${version}/subjects/lookup`, { key, body: one }));
        const item =
          version === 'v1'
            ? { subject: { email }, channel: 'email' }
            : { identifiers: [{ email }], scope: 'email' };
        add(`check ${version}`, await send('POST', `/${version}/checks`, { key, body: { items: [item] } }));
      }
    }
  }
  return told;
}

beforeAll(async () => {
  abide = await startAbide();
  db = await abide.connect();
  send = createSend(abide.url);
  [culprit, colleague, stranger] = await Promise.all([makeKey('shop'), makeKey('shop'), makeKey('other')]);
  const record = (key: Key, body: object) =>
    send('POST', '/v2/opt-outs', { key: key.token, body: { scopes: ['email'], ...body } });
  const from = await now();
  await record(stranger, { identifiers: [{ email: 'bystander@disputes.example' }] });
  await record(colleague, { identifiers: [{ email: 'colleague@disputes.example' }] });
  await record(culprit, { identifiers: [{ email: 'victim@disputes.example' }, { person_id: '＝1+1' }] });
  // A repeat of what somebody else recorded: that record stays theirs.
  await record(culprit, { identifiers: [{ email: 'bystander@disputes.example' }] });
  const imported = await send('POST', '/v2/imports?scopes=email', {
    key: culprit.token,
    body: 'email,person_id\nin-a-file@disputes.example,\n,＠SUM(1)\n',
    headers: { 'content-type': 'text/csv' },
  });
  await eventually(async () => {
    const { json } = await send('GET', `/v2/imports/${imported.json.id}`, { key: culprit.token });
    expect(json.state).toBe('done');
  });
  window = [from, await now()];
  await eventually(async () => {
    const { json } = await send('GET', '/v1/opt-outs?state=pending', { key: abide.key });
    expect(json.opt_outs).toEqual([]);
  });
  before = await everythingTold();
  const opened = await run(
    ...['disputes', 'open', '--key-id', culprit.id, '--from', window[0], '--to', window[1]],
    ...['--reason', 'stolen', '--json'],
  );
  expect([opened.code, opened.output]).toEqual([0, opened.output]);
  dispute = (JSON.parse(opened.stdout) as { id: string }).id;
});
afterAll(async () => {
  await db.end();
  await abide[Symbol.asyncDispose]();
});

describe('by HTTP', () => {
  test('there are no disputes: not to open, list, read, export or end one, with every scope that a client can have', async () => {
    for (const prefix of ['', '/v1', '/v2'])
      for (const rest of ['', `/${dispute}`, `/${dispute}/export`, '/open'])
        for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const) {
          const answer = await send(method, `${prefix}/disputes${rest}`, {
            key: stranger.token,
            ...(method === 'GET'
              ? {}
              : {
                  body: {
                    key_id: culprit.id,
                    client: 'shop',
                    since: window[0],
                    until: window[1],
                    reason: 'x',
                  },
                }),
          });
          expect([method, prefix, rest, answer.status]).toEqual([method, prefix, rest, 404]);
        }
    expect((await db.query('select from disputes')).rowCount).toBe(1);
  });

  test('what is disputed is told as before, to its client and to others: nothing is lifted, hidden or marked', async () => {
    expect(before.filter(([, status]) => status !== 200)).toEqual([]);
    expect(before.some(([, , text]) => text.includes('"can_send":false'))).toBe(true);
    expect(await everythingTold()).toEqual(before);
  });

  test('what is disputed is there: a retry records nothing anew, and no grant is easier than before', async () => {
    const body = {
      identifiers: [{ email: 'victim@disputes.example' }, { person_id: '＝1+1' }],
      scopes: ['email'],
    };
    const again = await send('POST', '/v2/opt-outs', { key: culprit.token, body });
    expect([again.status, again.json.outcome]).toEqual([200, 'already_opted_out']);
    const early = await send('POST', '/v2/grants', {
      key: culprit.token,
      body: {
        identifier: { email: 'victim@disputes.example' },
        scopes: ['email'],
        granted_at: window[0],
        evidence: { method: 'other', statement: `Dispute ${dispute}`, source: 'the shop itself' },
      },
    });
    expect([early.status, early.json.code]).toEqual([409, 'grant-not-later']);
  });
});

describe('an export', () => {
  test("has the people of the key's own opt-outs, those of its files too, and nobody whom others opted out", async () => {
    const { stdout } = await run('disputes', 'export', dispute);
    const cells = stdout
      .split('\r\n')
      .slice(1, -1)
      .map((line) => line.split(',')[2]);
    // No spreadsheet runs a cell that begins with a sign of double width either.
    expect(cells.sort()).toEqual([
      "'＝1+1",
      "'＠SUM(1)",
      'in-a-file@disputes.example',
      'victim@disputes.example',
    ]);
  });

  test('of a dispute that is none, or was never finished, has nobody', async () => {
    // What an opening that was killed leaves behind.
    const unfinished = '01990000-0000-7000-8000-000000000001';
    await db.query(
      `insert into disputed_opt_outs (dispute_id, opt_out_id) select $1, id from opt_outs where client = 'other'`,
      [unfinished],
    );
    const audited = async (): Promise<number> =>
      (await db.query("select from audit_log where action = 'dispute.exported'")).rowCount!;
    const exports = await audited();
    for (const id of [unfinished, "' or true --", `${dispute}%`, '*', culprit.id]) {
      const ran = await run('disputes', 'export', id);
      // Standard output is the export.
      expect([id, ran.code, ran.stdout, ran.output]).toEqual([id, 3, '', `no dispute ${id}\n`]);
    }
    expect(await audited()).toBe(exports);
  });

  test('is written where it was said and readable to its owner alone, whatever links lie in its way', async () => {
    const folder = join(abide.dataFolder, 'shared');
    await mkdir(folder);
    const elsewhere = join(folder, 'elsewhere');
    await writeFile(elsewhere, 'mine', { mode: 0o666 });
    // Made beforehand by somebody else: the file, and the name under which it is written until it is whole.
    await symlink(elsewhere, join(folder, 'ask.csv.part'));
    await symlink(join(folder, 'not-there-yet'), join(folder, 'dangling.csv'));
    await symlink(elsewhere, join(folder, 'there.csv'));

    for (const name of ['ask.csv', 'dangling.csv']) {
      const { code, output } = await run('disputes', 'export', dispute, '--output', join(folder, name));
      expect([name, code, output]).toEqual([name, 0, output]);
      expect((await lstat(join(folder, name))).isFile()).toBe(true);
      expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600);
    }
    expect((await run('disputes', 'export', dispute, '--output', join(folder, 'there.csv'))).code).toBe(1);
    expect(await readFile(elsewhere, 'utf8')).toBe('mine');
    expect((await readdir(folder)).sort()).toEqual(['ask.csv', 'dangling.csv', 'elsewhere', 'there.csv']);
  });

  test("is written into no log of the server's, and its addresses into no audit row", async () => {
    const rows = await db.query<{ all: string }>(
      "select string_agg(a::text, ' ') as all from audit_log a where action like 'dispute.%'",
    );
    expect(rows.rows[0]!.all).toContain(dispute);
    expect(rows.rows[0]!.all + abide.output).not.toContain('disputes.example');
  });
});

test('a dispute is opened about the opt-outs of the key that is named, and of no other: not by a client, a star or a pattern', async () => {
  for (const [keyId, more, code] of [
    [culprit.id, ['--client', 'other'], 3],
    ['%', [], 2],
    ['%', ['--client', '%'], 3],
    [culprit.id.toLowerCase() === culprit.id ? culprit.id.toUpperCase() : culprit.id.toLowerCase(), [], 2],
    [`${culprit.id}' or true --`, ['--client', 'shop'], 3],
  ] as const) {
    const ran = await run(
      ...['disputes', 'open', '--key-id', keyId, ...more, '--from', window[0], '--to', window[1]],
      ...['--reason', 'x'],
    );
    expect([keyId, more, ran.code]).toEqual([keyId, more, code]);
  }
  expect((await db.query('select from disputes')).rowCount).toBe(1);
});
