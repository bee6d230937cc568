import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Ledger } from '../../../ledger/contract/ledger.ts';
import { CARRIED_BY, OUTCOMES } from '../../../suppression/acknowledgement.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { AT, ID, SUBJECT_ID } from '../stub-ledger.ts';

const reports: Parameters<Ledger['acknowledge']>[] = [];
const asks: Parameters<Ledger['outstanding']>[] = [];
let api: ServedStub;
beforeAll(async () => {
  api = await serveStub({
    acknowledge: (...report) => {
      reports.push(report);
      return Promise.resolve({ accepted: 1, duplicate: 2, rejected: [{ seq: 3, code: 'unknown_seq' }] });
    },
    outstanding: (...ask) => {
      asks.push(ask);
      return Promise.resolve({
        generation: 4,
        targetSince: AT,
        decisions: [
          {
            seq: 7,
            optOutId: ID,
            subjectId: SUBJECT_ID,
            kind: 'email',
            version: 2,
            suppressed: { email: AT },
            granted: { sms: { at: AT, version: 1 } },
            effectiveAt: AT,
            recordedAt: AT,
            sealed: 'AQ',
            transportKeyId: 1,
            traceparent: undefined,
            attempts: 3,
            asked: 2,
            lane: 'live',
          },
          {
            seq: 8,
            optOutId: undefined,
            subjectId: SUBJECT_ID,
            kind: 'phone',
            version: 3,
            suppressed: {},
            granted: {},
            effectiveAt: AT,
            recordedAt: AT,
            sealed: undefined,
            transportKeyId: undefined,
            traceparent: undefined,
            attempts: 0,
            asked: 0,
            lane: 'backfill',
          },
        ],
        next: ask[1].after === undefined ? 'live:8' : undefined,
      });
    },
  });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});
beforeEach(() => {
  reports.length = 0;
  asks.length = 0;
});

const ACKNOWLEDGEMENT = {
  seq: 7,
  version: 2,
  outcome: 'verified',
  held: { version: 2, suppressed: ['email', 'email/newsletter', 'profiling'] },
  carried_by: 'stream',
  attempts: 1,
};
const WORKER = { id: 'w1', incarnation: 'i1', source: { kind: 'http', status: 'ok', parked: 0 } };
const REPORT = { store: 'crm', generation: 1, worker: WORKER, acknowledgements: [ACKNOWLEDGEMENT] };

const post = (body: unknown) => api.send('POST', '/v1/acknowledgements', { key: 'crm', body });
const postOne = (fields: object) =>
  post({ ...REPORT, acknowledgements: [{ ...ACKNOWLEDGEMENT, ...fields }] });

describe('a report', () => {
  test('goes to the ledger as it was said, and the ledger’s answer comes back', async () => {
    const { status, json } = await post({
      ...REPORT,
      worker: {
        ...WORKER,
        last_error: { code: 'STORE_TIMEOUT', at: '2026-11-24T10:00:00+01:00' },
        source: { ...WORKER.source, position: '0/16B3748', position_age_seconds: 0.5, parked: 2 },
      },
      acknowledgements: [
        {
          ...ACKNOWLEDGEMENT,
          held: { version: null, suppressed: ['email'] },
          asked: 2,
          code: 'SOME_CODE',
          evidence: { consumed_at: AT, applied_at: AT, verified_at: AT },
        },
      ],
    });
    expect([status, json]).toEqual([
      200,
      { accepted: 1, duplicate: 2, rejected: [{ seq: 3, code: 'unknown_seq' }] },
    ]);
    expect(reports).toEqual([
      [
        'crm',
        {
          generation: 1,
          worker: {
            id: 'w1',
            incarnation: 'i1',
            lastError: { code: 'STORE_TIMEOUT', at: AT },
            source: {
              kind: 'http',
              status: 'ok',
              position: '0/16B3748',
              positionAgeSeconds: 0.5,
              parked: 2,
            },
          },
          acknowledgements: [
            {
              seq: 7,
              version: 2,
              outcome: 'verified',
              held: { version: undefined, suppressed: ['email'] },
              carriedBy: 'stream',
              attempts: 1,
              asked: 2,
              code: 'SOME_CODE',
              evidence: { consumedAt: AT, appliedAt: AT, verifiedAt: AT },
            },
          ],
        },
      ],
    ]);
  });

  test('of a thousand, and of none as a mere sign of life, is taken', async () => {
    const many = Array.from({ length: 1_000 }, (_, n) => ({ ...ACKNOWLEDGEMENT, seq: n + 1 }));
    expect((await post({ ...REPORT, acknowledgements: many })).status).toBe(200);
    expect((await post({ ...REPORT, acknowledgements: [] })).status).toBe(200);
    expect(reports.map(([, { acknowledgements }]) => acknowledgements.length)).toEqual([1_000, 0]);
  });

  test.each(OUTCOMES)('takes the outcome %s', async (outcome) => {
    expect((await postOne({ outcome, code: 'X' })).status).toBe(200);
  });

  test.each(CARRIED_BY)('takes what was carried by %s', async (carried_by) => {
    expect((await postOne({ carried_by })).status).toBe(200);
  });

  test.each(['refused', 'failed'])('of %s says why', async (outcome) => {
    expect(problemOf(await postOne({ outcome }))).toEqual([
      422,
      'invalid-value',
      ['/acknowledgements/0/code'],
    ]);
  });

  test.each([
    ['A', 200],
    [`A${'_'.repeat(63)}`, 200],
    ['A1_B2', 200],
    ['', 422],
    ['a', 422],
    ['1A', 422],
    [`A${'_'.repeat(64)}`, 422],
    ['Ada@example.com', 422],
    ['A B', 422],
    ['A\n', 422],
  ])('with the code %j is %i: no free text', async (code, status) => {
    expect((await postOne({ outcome: 'failed', code })).status).toBe(status);
    const lastError = { ...REPORT, worker: { ...WORKER, last_error: { code, at: AT } } };
    expect((await post(lastError)).status).toBe(status);
  });

  test.each([
    [{ store: undefined }, '/store'],
    [{ store: null }, '/store'],
    [{ generation: 0 }, '/generation'],
    [{ generation: 1.5 }, '/generation'],
    [{ note: 'free text' }, '/note'],
    [{ acknowledgements: undefined }, '/acknowledgements'],
    [{ acknowledgements: Array(1_001).fill(ACKNOWLEDGEMENT) }, '/acknowledgements'],
    [{ worker: undefined }, '/worker'],
    [{ worker: { ...WORKER, id: '' } }, '/worker/id'],
    [{ worker: { ...WORKER, id: 'x'.repeat(129) } }, '/worker/id'],
    [{ worker: { ...WORKER, id: 'a b' } }, '/worker/id'],
    [{ worker: { ...WORKER, incarnation: undefined } }, '/worker/incarnation'],
    [{ worker: { ...WORKER, message: 'x' } }, '/worker/message'],
    [{ worker: { ...WORKER, last_error: null } }, '/worker/last_error'],
    [{ worker: { ...WORKER, last_error: { code: 'X' } } }, '/worker/last_error/at'],
    [{ worker: { ...WORKER, last_error: { code: 'X', at: 'now' } } }, '/worker/last_error/at'],
    [{ worker: { ...WORKER, source: { ...WORKER.source, kind: 'Kafka!' } } }, '/worker/source/kind'],
    [{ worker: { ...WORKER, source: { ...WORKER.source, status: 'fine' } } }, '/worker/source/status'],
    [{ worker: { ...WORKER, source: { ...WORKER.source, parked: -1 } } }, '/worker/source/parked'],
    [{ worker: { ...WORKER, source: { ...WORKER.source, position: 'a b' } } }, '/worker/source/position'],
    [
      { worker: { ...WORKER, source: { ...WORKER.source, position_age_seconds: -1 } } },
      '/worker/source/position_age_seconds',
    ],
    [{ observed: { incarnation: '' } }, '/observed/incarnation'],
    // PostgreSQL's text has no NUL.
    [{ observed: { incarnation: 'a\u0000b' } }, '/observed/incarnation'],
    [{ observed: { incarnation: 'a\u0007' } }, '/observed/incarnation'],
  ])('with %j is refused by name', async (fields, pointer) => {
    expect(problemOf(await post({ ...REPORT, ...fields }))).toEqual([422, 'invalid-value', [pointer]]);
    expect(reports).toEqual([]);
  });

  test.each([
    [{ seq: 0 }, 'seq'],
    [{ seq: '7' }, 'seq'],
    [{ seq: 2 ** 53 }, 'seq'],
    [{ version: 0 }, 'version'],
    [{ version: undefined }, 'version'],
    [{ outcome: 'superseded' }, 'outcome'],
    [{ carried_by: 'pigeon' }, 'carried_by'],
    [{ attempts: 0 }, 'attempts'],
    [{ attempts: 1_000_001 }, 'attempts'],
    [{ asked: 0 }, 'asked'],
    [{ held: undefined }, 'held'],
    [{ held: { suppressed: [] } }, 'held/version'],
    [{ held: { version: -1, suppressed: [] } }, 'held/version'],
    [{ held: { version: 1 } }, 'held/suppressed'],
    [{ held: { version: 1, suppressed: ['fax'] } }, 'held/suppressed/0'],
    [{ held: { version: 1, suppressed: ['email', 'Ada@example.com'] } }, 'held/suppressed/1'],
    [{ held: { version: 1, suppressed: Array(1_001).fill('email') } }, 'held/suppressed'],
    [{ held: { version: 1, suppressed: [], granted: [] } }, 'held/granted'],
    [{ evidence: null }, 'evidence'],
    [{ evidence: { applied_at: 'now' } }, 'evidence/applied_at'],
    [{ evidence: { seen_at: AT } }, 'evidence/seen_at'],
    [{ detail: 'x' }, 'detail'],
  ])('of a decision with %j is refused by name', async (fields, member) => {
    expect(problemOf(await postOne(fields))).toEqual([
      422,
      'invalid-value',
      [`/acknowledgements/0/${member}`],
    ]);
    expect(reports).toEqual([]);
  });

  test('whose store holds what is no scope does not have it repeated', async () => {
    const answer = await postOne({ held: { version: 1, suppressed: ['ada@example.com'] } });
    expect(answer.text).not.toContain('ada@');
  });
});

describe('what is outstanding', () => {
  const get = (query: string) => api.send('GET', `/v1/stores/crm/outstanding${query}`, { key: 'crm' });

  test('has these members in this order, and what there is not is null', async () => {
    const { status, text } = await get('');
    expect([status, text]).toEqual([
      200,
      JSON.stringify({
        generation: 4,
        decisions: [
          {
            seq: 7,
            opt_out_id: ID,
            version: 2,
            subject_id: SUBJECT_ID,
            kind: 'email',
            suppressed: { email: AT },
            granted: { sms: { at: AT, version: 1 } },
            effective_at: AT,
            recorded_at: AT,
            sealed: 'AQ',
            transport_key_id: 1,
            attempts: 3,
            asked: 2,
            lane: 'live',
          },
          {
            seq: 8,
            opt_out_id: null,
            version: 3,
            subject_id: SUBJECT_ID,
            kind: 'phone',
            suppressed: {},
            granted: {},
            effective_at: AT,
            recorded_at: AT,
            sealed: null,
            transport_key_id: null,
            attempts: 0,
            lane: 'backfill',
          },
        ],
        next: 'live:8',
      }),
    ]);
  });

  test('says since when the name means the store, where it is asked for that', async () => {
    expect((await get('?target_since=true')).json).toMatchObject({ generation: 4, target_since: AT });
  });

  test('is asked for by page, limit and worker', async () => {
    const { json } = await get('?after=live:8&limit=2000&worker=w1');
    await get(`?after=backfill:${SUBJECT_ID}`);
    expect(json.next).toBeNull();
    expect(
      asks.map(([store, { after, limit, waitMs, worker }]) => [store, after, limit, waitMs, worker]),
    ).toEqual([
      ['crm', 'live:8', 2_000, 0, 'w1'],
      ['crm', `backfill:${SUBJECT_ID}`, 500, 0, undefined],
    ]);
  });

  test.each([
    ['?limit=0', '/limit'],
    ['?limit=2001', '/limit'],
    ['?limit=ten', '/limit'],
    ['?after=8', '/after'],
    ['?after=live:-1', '/after'],
    ['?after=live:1234567890123456', '/after'],
    ['?after=backfill:x', '/after'],
    ['?worker=a%20b', '/worker'],
    ['?before=live:8', '/before'],
  ])('%s is refused by name', async (query, pointer) => {
    expect(problemOf(await get(query))).toEqual([422, 'invalid-value', [pointer]]);
    expect(asks).toEqual([]);
  });

  test('of a store that is not registered is 404, and was not waited for', async () => {
    await using none = await serveStub({ outstanding: () => Promise.resolve(undefined) });
    const answer = await none.send('GET', '/v1/stores/crm/outstanding', {
      key: 'crm',
      headers: { Prefer: 'wait=30' },
    });
    expect(problemOf(answer)).toEqual([404, 'not-found']);
    expect(answer.headers['preference-applied']).toBeUndefined();
  });
});

test('the newest decision of a subject is what a worker asks before it lifts anything', async () => {
  const { status, text } = await api.send('GET', `/v1/stores/crm/subjects/${SUBJECT_ID}`, { key: 'crm' });
  expect([status, text]).toEqual([
    200,
    JSON.stringify({ subject_id: SUBJECT_ID, seq: 7, version: 2, suppressed: { email: AT }, granted: {} }),
  ]);
  for (const id of [ID, 'nobody', '%00'])
    expect(problemOf(await api.send('GET', `/v1/stores/crm/subjects/${id}`, { key: 'crm' }))).toEqual([
      404,
      'not-found',
    ]);
});

test('a transport key is given to workers, and kept in no cache on the way', async () => {
  const { status, json, headers } = await api.send('GET', '/v1/transport-keys/1', { key: 'crm' });
  expect([status, json, headers['cache-control']]).toEqual([
    200,
    { id: 1, key: Buffer.alloc(32, 7).toString('base64url') },
    'no-store',
  ]);
  for (const id of ['2', '0', '01', '1.0', '-1', '1e0', '0x1', '99999999999', 'one'])
    expect(problemOf(await api.send('GET', `/v1/transport-keys/${id}`, { key: 'crm' }))).toEqual([
      404,
      'not-found',
    ]);
});
