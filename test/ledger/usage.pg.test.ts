// Who uses which version of the API is counted beside the requests, and no count is lost while the process lives.
import { beforeAll, expect, test } from '@jest/globals';
import { listUsage, createUsageCounter } from '../../ledger/usage.ts';
import type { Pool } from '../../ledger/database.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freshLedger } from '../harness/ledger.ts';
import { createSend } from '../harness/http.ts';
import { awayFromMidnight } from '../harness/midnight.ts';
import { serveLedger } from '../harness/served-ledger.ts';

beforeAll(awayFromMidnight);

const use = (keyId: string, version = 'v1', client = 'shop') => ({ version, client, keyId });

/** Version, client, key and count of each. */
const counts = async (pool: Pool, days = 30) =>
  (await listUsage(pool, days)).map(({ version, client, keyId, count }) => [version, client, keyId, count]);

test('each key has one row for a version and a day, to which every process adds', async () => {
  await using t = await freshLedger();
  const [one, other] = [createUsageCounter(t.pool), createUsageCounter(t.pool)];
  for (let n = 0; n < 3; n += 1) one.count(use('first'));
  one.count(use('second'));
  one.count(use('first', 'v2'));
  one.count(use('token:login', 'v1', 'login:app'));
  one.count(use('token:login', 'v1', 'login:batch'));
  for (let n = 0; n < 2; n += 1) other.count(use('first'));
  await Promise.all([one.write(), other.write()]);
  one.count(use('first'));
  await one.write();
  await one.write();

  expect(await counts(t.pool)).toEqual([
    ['v1', 'shop', 'first', 6],
    ['v1', 'login:app', 'token:login', 1],
    ['v1', 'login:batch', 'token:login', 1],
    ['v1', 'shop', 'second', 1],
    ['v2', 'shop', 'first', 1],
  ]);
  const { rows } = await t.pool.query('select from api_usage');
  expect(rows).toHaveLength(5);
});

test('says by the clock of the database when a key was last used', async () => {
  await using t = await freshLedger();
  const counter = createUsageCounter(t.pool);
  counter.count(use('first'));
  await counter.write();
  const { rows } = await t.pool.query<{ now: string }>('select clock_timestamp() as now');
  const [{ lastAt } = { lastAt: '' }] = await listUsage(t.pool, 1);
  const ago = Date.parse(rows[0]!.now) - Date.parse(lastAt);
  expect(ago).toBeGreaterThanOrEqual(0);
  expect(ago).toBeLessThan(5_000);
});

test('a clock of ours that is a day ahead makes no day of its own', async () => {
  await using t = await freshLedger();
  let now = Date.UTC(2031, 0, 1, 23, 59);
  const counter = createUsageCounter(t.pool, { now: () => now });
  counter.count(use('first'));
  now += 120_000;
  counter.count(use('first'));
  await counter.write();
  const { rows } = await t.pool.query('select day = current_date as today, count from api_usage');
  expect(rows).toEqual([{ today: true, count: 2 }]);
});

test('what cannot be written is written later, with what came meanwhile', async () => {
  await using t = await freshLedger();
  const counter = createUsageCounter(t.pool);
  counter.count(use('first'));
  await withClient(t.db.superuserUrl, async (superuser) => {
    await superuser.query('alter table api_usage rename to away');
    for (let n = 0; n < 3; n += 1) {
      counter.count(use('first'));
      await expect(counter.write()).rejects.toMatchObject({ code: '42P01' });
    }
    await superuser.query('alter table away rename to api_usage');
  });
  await counter.write();
  expect(await counts(t.pool)).toEqual([['v1', 'shop', 'first', 4]]);
});

test('however many keys there are, memory is bounded and every call is counted', async () => {
  await using t = await freshLedger();
  const counter = createUsageCounter(t.pool, { apartMax: 3 });
  for (let n = 0; n < 100; n += 1) counter.count(use(`key${n}`));
  counter.count(use('key1'));
  await counter.write();
  expect(await counts(t.pool)).toEqual([
    ['v1', '(others)', '(others)', 97],
    ['v1', 'shop', 'key1', 2],
    ['v1', 'shop', 'key0', 1],
    ['v1', 'shop', 'key2', 1],
  ]);
});

test('only the days that are asked for are counted', async () => {
  await using t = await freshLedger();
  await t.pool.query(
    `insert into api_usage (day, version, key_id, client, count, last_at)
     select current_date - n, 'v1', 'first', 'shop', 1, now() - n * interval '1 day' from generate_series(0, 9) n`,
  );
  expect(await counts(t.pool, 1)).toEqual([['v1', 'shop', 'first', 1]]);
  expect(await counts(t.pool, 7)).toEqual([['v1', 'shop', 'first', 7]]);
});

test('a ledger that closes writes what it counted', async () => {
  await using t = await freshLedger();
  const ledger = await t.another();
  ledger.countUse(use('first'));
  await ledger[Symbol.asyncDispose]();
  expect(await counts(t.pool)).toEqual([['v1', 'shop', 'first', 1]]);
});

test('no call waits for its count', async () => {
  await using served = await serveLedger();
  const fields = { store: undefined, expiresAt: undefined, caller: undefined };
  const { token, key } = await served.t.ledger.createKey({
    client: 'shop',
    scopes: ['opt_outs:write'],
    ...fields,
  });
  const post = (n: number) =>
    createSend(served.url)('POST', '/v1/opt-outs', {
      key: token,
      body: { subject: { email: `person${n}@example.com` } },
    });
  await withClient(served.t.db.superuserUrl, async (superuser) => {
    await superuser.query('begin');
    await superuser.query('lock table api_usage in access exclusive mode');
    const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => post(n)));
    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(201));
    await superuser.query('commit');
  });
  await eventually(async () => expect(await counts(served.t.pool)).toEqual([['v1', 'shop', key.id, 20]]));
});
