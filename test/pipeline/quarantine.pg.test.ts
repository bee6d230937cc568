// What a store refuses, from the HTTP call to the store itself: it is parked with its clock running, in nobody's way, tried again,
// and healed by a newer decision; and what a sender is told meanwhile.
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { StoreLag } from '../../ledger/contract/propagation-lag.ts';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess, Ran } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend, WHEN_COMPLETE } from '../harness/http.ts';
import type { Answer } from '../harness/http.ts';

const CONTACTS = `
  create table contacts (address text primary key, no_mail boolean not null default false,
                         no_sms boolean not null default false);
  create table refusals (address text primary key);
  create function refuse() returns trigger language plpgsql as $$ begin
    if exists (select from refusals r where r.address = new.address) then
      raise exception 'not this one: %', new.address using errcode = '23514';
    end if;
    return new;
  end $$;
  create trigger refuse before update on contacts for each row execute function refuse();
  alter table contacts owner to abide_owner;
  alter table refusals owner to abide_owner;`;

const configOf = (url: string): string => `stores:
  crm:
    connector: postgres
    url: '${url}'
    scopes: [email, sms]
    late_after_seconds: 1
    statements:
      apply: 'update contacts set no_mail = coalesce(:email, no_mail), no_sms = coalesce(:sms, no_sms) where address = :key'
      read_back: 'select no_mail as email, no_sms as sms, null::boolean as push from contacts where address = :key'
`;

type Parked = {
  seq: number;
  code: string;
  kind: string;
  attempts: number;
  since: string;
  next_try_at: string;
  opt_out_id: string;
};

type Recorded = { id: string; recorded_at: string; propagation: object };

describe.each([
  ['in the process of the API', false],
  ['that reaches nothing but the API', true],
])('with a worker %s', (_where, apart) => {
  let database: TestDatabase;
  let abide: AbideProcess;
  let worker: ReturnType<typeof spawnAbide> | undefined;

  beforeAll(async () => {
    database = await emptyDatabase();
    await sql(CONTACTS);
    abide = await startAbide({
      config: configOf(database.urls.owner),
      args: apart ? ['--no-workers'] : [],
    });
    if (!apart) return;
    const key = (await run('keys', 'create', '--client', 'crm-worker', '--store', 'crm')).stdout.trim();
    worker = spawnAbide(['worker', '--store', 'crm', '--config', join(abide.dataFolder, 'abide.yaml')], {
      ABIDE_URL: abide.url,
      ABIDE_KEY: key,
    });
  });
  afterAll(async () => {
    worker?.child.kill();
    await worker?.ended;
    await abide[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  const sql = async <Row extends object>(text: string, values: string[] = []): Promise<Row[]> =>
    await withClient(database.superuserUrl, async (client) => {
      const { rows } = await client.query<Row>(text, values.length === 0 ? undefined : values);
      return rows;
    });
  /** Runs on the ledger's own database, to move its times. */
  const inLedger = async (text: string): Promise<void> => {
    const client = await abide.connect();
    try {
      await client.query(text);
    } finally {
      await client.end();
    }
  };
  const run = (...args: string[]): Promise<Ran> =>
    runAbide(args, {
      ABIDE_DATA: abide.dataFolder,
      ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml'),
      ABIDE_URL: abide.url,
      ABIDE_LOG: 'silent',
    });
  const ask = (method: 'GET' | 'POST', path: string, body?: object, headers = {}): Promise<Answer> =>
    createSend(abide.url)(method, path, { key: abide.key, body, headers });
  const addContact = (address: string, isRefused: boolean): Promise<object[]> =>
    sql(
      isRefused
        ? `with one as (insert into contacts (address) values ($1)) insert into refusals values ($1)`
        : `insert into contacts (address) values ($1)`,
      [address],
    );
  const mend = (address: string): Promise<object[]> =>
    sql('delete from refusals where address = $1', [address]);
  const held = async (address: string): Promise<object | undefined> =>
    (await sql<object>('select no_mail, no_sms from contacts where address = $1', [address]))[0];
  const optOut = async (email: string, fields: object = {}, headers = {}): Promise<Recorded> => {
    const body = { subject: { email }, ...fields };
    const { status, json } = await ask('POST', '/v1/opt-outs', body, headers);
    expect(status).toBe(201);
    return json as Recorded;
  };
  const parked = async (query = ''): Promise<Parked[]> =>
    (await ask('GET', `/v1/stores/crm/quarantine${query}`)).json.quarantine as Parked[];
  const parkedOf = (optOutId: string): Promise<Parked> =>
    eventually(async () => {
      const found = (await parked()).find((one) => one.opt_out_id === optOutId);
      if (found === undefined) throw new Error('not parked yet');
      return found;
    });
  const lag = async (): Promise<StoreLag> =>
    (await ask('GET', '/v1/propagation-lag')).json.stores[0] as StoreLag;
  const gate = async (query = ''): Promise<object> =>
    (await ask('GET', `/v1/stores/crm/gate${query}`)).json as object;
  const propagationOf = async (id: string): Promise<object> =>
    (await ask('GET', `/v1/opt-outs/${id}/propagation`)).json as object;

  test('a refused decision is parked, counted late, and holds up nobody; the sender is told to hold', async () => {
    await addContact('grace@example.com', true);
    await addContact('ada@example.com', false);
    await eventually(async () => expect(await gate()).toMatchObject({ answer: 'send', reason: null }));

    const refused = await optOut('grace@example.com');
    const one = await parkedOf(refused.id);
    expect(one).toMatchObject({ kind: 'quarantine', code: 'SQLSTATE_23514', attempts: 1 });
    await eventually(async () =>
      expect(await lag()).toMatchObject({ status: 'late', outstanding: 1, quarantined: 1, absent: 0 }),
    );
    const { oldest_outstanding_seconds: oldest, verified_through: mark } = await lag();
    expect(await gate('?max_age_seconds=3600')).toMatchObject({ answer: 'hold', reason: 'late' });

    // Somebody else gets through while it waits.
    const other = await optOut('ada@example.com', {}, WHEN_COMPLETE);
    expect(other.propagation).toMatchObject({ state: 'complete', verified: 1 });
    expect(await held('ada@example.com')).toEqual({ no_mail: true, no_sms: true });
    await eventually(async () => {
      const now = await lag();
      expect(now.oldest_outstanding_seconds).toBeGreaterThan(oldest!);
      expect(now).toMatchObject({ outstanding: 1, verified_through: mark });
    });
    expect(await propagationOf(refused.id)).toMatchObject({
      state: 'pending',
      stores: [{ state: 'quarantined', reason: 'SQLSTATE_23514' }],
    });

    const shown = await ask('GET', `/v1/stores/crm/quarantine/${one.seq}`);
    expect(shown.json).toMatchObject({ seq: one.seq, newest_version: 1, last_evidence: null });
    expect(shown.text).not.toContain('grace');
  });

  test('mended and tried again on demand it is through, and stands in the audit log', async () => {
    const [one] = await parked();
    await mend('grace@example.com');
    // Left alone, it would wait for longer than this test takes.
    await inLedger(`update exceptions set next_try_at = clock_timestamp() + interval '1 hour'`);
    expect((await ask('POST', '/v1/stores/crm/quarantine/retry', { seq: one!.seq })).json).toEqual({
      retried: 1,
    });
    await eventually(async () =>
      expect(await held('grace@example.com')).toEqual({ no_mail: true, no_sms: true }),
    );
    await eventually(async () => expect(await parked()).toEqual([]));
    await eventually(async () =>
      expect(await lag()).toMatchObject({ status: 'ok', outstanding: 0, quarantined: 0 }),
    );
    expect(await gate('?max_age_seconds=0')).toMatchObject({ answer: 'send' });

    const { stdout } = await run('audit', '--action', 'quarantine.retried', '--json');
    expect(JSON.parse(stdout)).toMatchObject({
      client: 'administrator',
      resource: 'crm',
      details: { seq: one!.seq, retried: 1 },
    });
    expect(stdout + abide.output + (worker?.output() ?? '')).not.toContain('grace');
  });

  test('refused again it waits again: a retry is no way out, and nobody else waits for it', async () => {
    await addContact('never@example.com', true);
    const { id } = await optOut('never@example.com');
    const first = await parkedOf(id);
    const retriedAt = Date.now();
    await ask('POST', '/v1/stores/crm/quarantine/retry', { code: 'SQLSTATE_23514' });
    const again = await eventually(async () => {
      const one = await parkedOf(id);
      expect(one.attempts).toBeGreaterThan(first.attempts);
      return one;
    });
    expect(Date.parse(again.next_try_at) - retriedAt).toBeGreaterThan(3_000);
    expect(await lag()).toMatchObject({ outstanding: 1, quarantined: 1 });
    expect(await held('never@example.com')).toEqual({ no_mail: false, no_sms: false });
    await mend('never@example.com');
    expect((await run('quarantine', 'retry', '--all', '--store', 'crm')).code).toBe(0);
    await eventually(async () => expect(await parked()).toEqual([]));
  });

  test('by itself it is tried again, too', async () => {
    await addContact('alone@example.com', true);
    const { id } = await optOut('alone@example.com');
    const one = await parkedOf(id);
    const waits = Date.parse(one.next_try_at) - Date.parse(one.since);
    expect(waits).toBeGreaterThan(6_000);
    expect(waits).toBeLessThan(13_000);
    await inLedger(`update exceptions set next_try_at = clock_timestamp() + interval '1 second'`);
    await mend('alone@example.com');
    await eventually(async () => expect(await parked()).toEqual([]));
    expect(await propagationOf(id)).toMatchObject({ state: 'complete', verified: 1 });
  });

  test('a newer decision of the same person that the store takes heals the parked one', async () => {
    await addContact('kay@example.com', true);
    const first = await optOut('kay@example.com', { scope: { email: true } });
    await parkedOf(first.id);
    await inLedger(`update exceptions set next_try_at = clock_timestamp() + interval '1 hour'`);
    await mend('kay@example.com');
    const second = await optOut('kay@example.com', { scope: { sms: true } }, WHEN_COMPLETE);
    expect(second.propagation).toMatchObject({ state: 'complete', verified: 1 });
    expect(await held('kay@example.com')).toEqual({ no_mail: true, no_sms: true });
    expect(await parked()).toEqual([]);
    expect(await propagationOf(first.id)).toMatchObject({
      state: 'complete',
      verified: 0,
      confirmed: 1,
      stores: [{ state: 'superseded' }],
    });
    await eventually(async () => expect(await lag()).toMatchObject({ status: 'ok', outstanding: 0 }));
  });

  test('of two parked decisions of one person the age is the elder one’s, and one that is taken settles both', async () => {
    await addContact('lin@example.com', true);
    const first = await optOut('lin@example.com', { scope: { email: true } });
    await parkedOf(first.id);
    const second = await optOut('lin@example.com', { scope: { sms: true } });
    const one = await parkedOf(second.id);
    const askedAt = Date.now();
    const { json } = await ask('GET', `/v1/stores/crm/quarantine/${one.seq}`);
    expect(json).toMatchObject({ speaks_from: one.seq - 1, version: 2 });
    // Times are given in whole milliseconds.
    expect(json.age_seconds * 1000).toBeGreaterThan(askedAt - Date.parse(first.recorded_at) - 2);
    await mend('lin@example.com');
    await ask('POST', '/v1/stores/crm/quarantine/retry', { seq: one.seq });
    await eventually(async () => expect(await parked()).toEqual([]));
    expect(await propagationOf(first.id)).toMatchObject({ state: 'complete' });
  });

  test('who is absent is counted apart and never late, asked again in an hour, and suppressed once there', async () => {
    const { id } = await optOut('stranger@example.com', {}, WHEN_COMPLETE);
    const one = await parkedOf(id);
    expect(one).toMatchObject({ kind: 'absent', code: 'ABSENT' });
    const waits = Date.parse(one.next_try_at) - Date.now();
    expect(waits).toBeGreaterThan(3_500_000);
    expect(waits).toBeLessThanOrEqual(3_600_000);
    await eventually(async () =>
      expect(await lag()).toMatchObject({ status: 'ok', outstanding: 0, quarantined: 0, absent: 1 }),
    );
    expect(await gate('?max_age_seconds=0')).toMatchObject({ answer: 'send', absent: 1 });
    expect(await propagationOf(id)).toMatchObject({ state: 'complete', stores: [{ state: 'absent' }] });

    const list = await run('quarantine', 'list', '--store', 'crm', '--kind', 'absent');
    expect(list.output).toMatch(
      new RegExp(`^SEQ .*\\n${one.seq} +absent +ABSENT +\\d+ s +1 +20.*Z +${id}\\n$`),
    );
    expect((await run('quarantine', 'list', '--store', 'crm', '--kind', 'quarantine')).output).toBe(
      'nothing is parked in crm\n',
    );

    await addContact('stranger@example.com', false);
    await inLedger(`update exceptions set next_try_at = clock_timestamp() where kind = 'absent'`);
    await eventually(async () =>
      expect(await held('stranger@example.com')).toEqual({ no_mail: true, no_sms: true }),
    );
    await eventually(async () => expect(await lag()).toMatchObject({ absent: 0 }));
  });

  test('paused it is asked nothing, on demand neither; resumed it is', async () => {
    await addContact('pause@example.com', true);
    const { id } = await optOut('pause@example.com');
    const one = await parkedOf(id);
    await mend('pause@example.com');
    await run('stores', 'pause', 'crm');
    await eventually(() =>
      expect(apart ? worker!.output() : abide.output).toMatch(/store is paused|paused, retired, taken over/),
    );
    expect(await run('quarantine', 'retry', String(one.seq), '--store', 'crm')).toMatchObject({
      code: 0,
      output: expect.stringContaining('1 will be tried again now') as unknown,
    });
    expect(await gate()).toMatchObject({ answer: 'hold' });
    expect(await held('pause@example.com')).toEqual({ no_mail: false, no_sms: false });
    await run('stores', 'resume', 'crm');
    await eventually(async () =>
      expect(await held('pause@example.com')).toEqual({ no_mail: true, no_sms: true }),
    );
  });

  test('in scripts: 0 and 3 of the gate and of the quarantine, 1 where there is no such store, 2 for wrong use', async () => {
    await eventually(async () => expect(await gate('?max_age_seconds=0')).toMatchObject({ answer: 'send' }));
    const [open, json, nowhere, wrong, none, missing, unnamed, both] = await Promise.all([
      run('gate', '--store', 'crm', '--max-age', '0'),
      run('gate', '--store', 'crm', '--json'),
      run('gate', '--store', 'nowhere'),
      run('gate', '--store', 'crm', '--max-age', 'soon'),
      run('quarantine', 'retry', '--all', '--store', 'crm'),
      run('quarantine', 'show', '999', '--store', 'crm'),
      run('quarantine', 'list'),
      run('quarantine', 'retry', '1', '--all', '--store', 'crm'),
    ]);
    expect(open.stdout).toMatch(/^send \(as of 20.*Z\)\n$/);
    expect(JSON.parse(json.stdout)).toMatchObject({ store: 'crm', answer: 'send' });
    expect([open, json, nowhere, wrong, none, missing, unnamed, both].map(({ code }) => code)).toEqual([
      0, 0, 1, 2, 3, 3, 2, 2,
    ]);

    await addContact('last@example.com', true);
    const { id } = await optOut('last@example.com');
    const one = await parkedOf(id);
    await eventually(async () => expect(await lag()).toMatchObject({ status: 'late' }));
    const [hold, list, show] = await Promise.all([
      run('gate', '--store', 'crm'),
      run('quarantine', 'list', '--store', 'crm', '--json'),
      run('quarantine', 'show', String(one.seq), '--store', 'crm'),
    ]);
    expect(hold).toMatchObject({ code: 3, stdout: expect.stringMatching(/^hold: late \(as of/) as unknown });
    expect(JSON.parse(list.stdout)).toMatchObject([{ seq: one.seq, code: 'SQLSTATE_23514' }]);
    expect(show.output).toMatch(/^code +SQLSTATE_23514$/m);
    expect(show.output).toMatch(/^last_evidence +none/m);

    const key = (await run('keys', 'create', '--client', 'old', '--scope', 'lag:read')).stdout.trim();
    const refused = await run('quarantine', 'retry', '--all', '--store', 'crm', '--key', key);
    expect(refused.code).toBe(1);
    expect(refused.output).toMatch(
      /403: The key lacks the scope stores:write\. `abide keys create .* --scope/,
    );
  });
});
