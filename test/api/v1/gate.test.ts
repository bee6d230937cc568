import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { LagReport, LagStatus, StoreLag } from '../../../ledger/contract/propagation-lag.ts';
import { judgeGate } from '../../../ledger/gate.ts';
import { AbideError } from '../../../suppression/errors.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { AT, LAG } from '../stub-ledger.ts';

const lagWith = (fields: Partial<StoreLag>): LagReport => ({
  ...LAG,
  stores: [{ ...LAG.stores[0]!, status: 'ok', oldest_outstanding_seconds: 0, ...fields }],
});
const reason = (fields: Partial<StoreLag>, maxAge?: number) =>
  judgeGate(lagWith(fields), 'crm', maxAge).reason;

describe('what the gate makes of the lag', () => {
  test('a store that is ok, with nothing older than asked for, may be sent from', () => {
    expect(reason({})).toBeUndefined();
    expect(reason({}, 0)).toBeUndefined();
    expect(reason({ oldest_outstanding_seconds: 4 })).toBeUndefined();
    expect(reason({ oldest_outstanding_seconds: 4 }, 4)).toBeUndefined();
  });

  test.each<[LagStatus]>([['late'], ['unknown'], ['backfilling'], ['paused']])(
    '%s is held, for that reason, whatever bound is asked for and required or not',
    (status) => {
      for (const required of [true, false])
        for (const bound of [undefined, 0, 1_000_000])
          expect(reason({ status, required }, bound)).toBe(status);
    },
  );

  test('an opt-out older than the bound holds, one millisecond of it', () => {
    expect(reason({ oldest_outstanding_seconds: 4.001 }, 4)).toBe('outstanding');
    expect(reason({ oldest_outstanding_seconds: 0.001 }, 0)).toBe('outstanding');
  });

  test('what is not known is held: an age that is null, a store that the lag does not have', () => {
    expect(reason({ oldest_outstanding_seconds: null })).toBe('unknown');
    expect(judgeGate(lagWith({}), 'mail', undefined)).toMatchObject({ store: 'mail', reason: 'unknown' });
  });
});

describe('GET /v1/stores/{name}/gate', () => {
  let api: ServedStub;
  let lag: LagReport;
  beforeAll(async () => {
    api = await serveStub({
      gate: (name, maxAge) =>
        name === 'away'
          ? Promise.reject(new AbideError('ledger-unavailable'))
          : Promise.resolve(name === 'crm' ? judgeGate(lag, name, maxAge) : undefined),
    });
  });
  afterAll(async () => {
    await api[Symbol.asyncDispose]();
  });

  test('answers send or hold with the mark and the moment, and nobody may keep the answer', async () => {
    lag = lagWith({ oldest_outstanding_seconds: 2, absent: 3 });
    const send = await api.send('GET', '/v1/stores/crm/gate', { key: 'shop' });
    const hold = await api.send('GET', '/v1/stores/crm/gate?max_age_seconds=1.5', { key: 'shop' });
    const body = {
      store: 'crm',
      answer: 'send',
      reason: null,
      verified_through: 48211,
      oldest_outstanding_seconds: 2,
      absent: 3,
      as_of: AT,
    };
    expect([send.status, send.json]).toEqual([200, body]);
    expect([hold.status, hold.json]).toEqual([200, { ...body, answer: 'hold', reason: 'outstanding' }]);
    expect(send.headers['cache-control']).toBe('no-store');
  });

  test('an unknown store is 404, and a ledger that cannot be asked is 503: neither is a send', async () => {
    expect(problemOf(await api.send('GET', '/v1/stores/nowhere/gate', { key: 'shop' }))).toEqual([
      404,
      'not-found',
    ]);
    expect(problemOf(await api.send('GET', '/v1/stores/away/gate', { key: 'shop' }))).toEqual([
      503,
      'ledger-unavailable',
    ]);
  });

  test.each([
    ['max_age_seconds=', '/max_age_seconds'],
    ['max_age_seconds=-1', '/max_age_seconds'],
    ['max_age_seconds=1e9', '/max_age_seconds'],
    ['max_age_seconds=Infinity', '/max_age_seconds'],
    ['max_age_seconds=1&max_age_seconds=2', '/max_age_seconds'],
    ['max_age=1', '/max_age'],
  ])('?%s is refused, never read as no bound', async (query, pointer) => {
    expect(problemOf(await api.send('GET', `/v1/stores/crm/gate?${query}`, { key: 'shop' }))).toEqual([
      422,
      'invalid-value',
      [pointer],
    ]);
  });
});
