import { expect, test } from '@jest/globals';
import type { ParkedFilter, ParkedWhich } from '../../../ledger/contract/quarantine.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import { AT, ID, PARKED, SUBJECT_ID } from '../stub-ledger.ts';

const RENDERED = {
  store: 'crm',
  seq: 7,
  opt_out_id: ID,
  subject_id: SUBJECT_ID,
  subject_kind: 'email',
  version: 2,
  kind: 'quarantine',
  code: 'TOO_LONG',
  attempts: 6,
  recorded_at: AT,
  age_seconds: 31.2,
  since: AT,
  next_try_at: AT,
};

test('a page has what is parked and where the next begins', async () => {
  const asked: ParkedFilter[] = [];
  await using api = await serveStub({
    listParked: (_name, filter) => {
      asked.push(filter);
      return Promise.resolve({ parked: [PARKED], nextCursor: '7' });
    },
  });
  const path = '/v1/stores/crm/quarantine';
  const first = await api.send('GET', path, { key: 'operator' });
  const next = await api.send('GET', `${path}?limit=1&kind=quarantine&code=TOO_LONG&cursor=7`, {
    key: 'operator',
  });
  expect(first.json).toEqual({ object: 'list', quarantine: [RENDERED], next_cursor: '7' });
  expect(first.headers['link']).toBe(`<${path}?cursor=7>; rel="next"`);
  expect(next.headers['link']).toBe(`<${path}?limit=1&kind=quarantine&code=TOO_LONG&cursor=7>; rel="next"`);
  expect(asked).toEqual([
    { limit: 100, cursor: undefined, kind: undefined, code: undefined },
    { limit: 1, cursor: '7', kind: 'quarantine', code: 'TOO_LONG' },
  ]);
});

test('one of them has all that is known; another number, or another store, is 404', async () => {
  await using api = await serveStub({
    findParked: (name, seq) =>
      Promise.resolve(
        name !== 'crm' || seq !== 7
          ? undefined
          : {
              ...PARKED,
              optOutId: undefined,
              generation: 2,
              speaksFrom: 6,
              newestVersion: 3,
              lastEvidence: {
                seq: 4,
                version: 1,
                outcome: 'verified',
                held: { version: undefined, suppressed: ['email'] },
                acknowledgedAt: AT,
                worker: 'w',
              },
            },
      ),
  });
  expect((await api.send('GET', '/v1/stores/crm/quarantine/7', { key: 'operator' })).json).toEqual({
    ...RENDERED,
    opt_out_id: null,
    generation: 2,
    speaks_from: 6,
    newest_version: 3,
    last_evidence: {
      seq: 4,
      version: 1,
      outcome: 'verified',
      held: { version: null, suppressed: ['email'] },
      acknowledged_at: AT,
      worker: 'w',
    },
  });
  for (const path of ['crm/quarantine/8', 'mail/quarantine/7', 'crm/quarantine/07', 'crm/quarantine/x'])
    expect(problemOf(await api.send('GET', `/v1/stores/${path}`, { key: 'operator' }))).toEqual([
      404,
      'not-found',
    ]);
});

test('what to try again is named in one way; who asked goes along', async () => {
  const asked: [string, ParkedWhich, string][] = [];
  await using api = await serveStub({
    retryParked: (name, which, { client }) => {
      asked.push([name, which, client]);
      return Promise.resolve(name === 'crm' ? 3 : undefined);
    },
  });
  const retry = (body: unknown, name = 'crm', key = 'operator') =>
    api.send('POST', `/v1/stores/${name}/quarantine/retry`, { key, body });
  for (const body of [{ seq: 7 }, { code: 'NOT_HELD' }, { all: true }])
    expect((await retry(body)).json).toEqual({ retried: 3 });
  expect(asked).toEqual([
    ['crm', { seq: 7 }, 'operator'],
    ['crm', { code: 'NOT_HELD' }, 'operator'],
    ['crm', { all: true }, 'operator'],
  ]);
  expect(problemOf(await retry({ all: true }, 'nowhere'))).toEqual([404, 'not-found']);
  expect(problemOf(await retry({ all: true }, 'crm', 'shop'))).toEqual([403, 'missing-scope']);

  for (const [body, pointer] of [
    [{}, ''],
    [{ seq: 7, code: 'NOT_HELD' }, ''],
    [{ seq: 7, all: true }, ''],
    [{ all: false }, '/all'],
    [{ seq: 0 }, '/seq'],
    [{ seq: '7' }, '/seq'],
    [{ code: 'not_held' }, '/code'],
    [{ seq: 7, store: 'crm' }, '/store'],
  ] as const)
    expect(problemOf(await retry(body))).toEqual([422, 'invalid-value', [pointer]]);
});

test.each([
  ['limit=0', '/limit'],
  ['limit=501', '/limit'],
  ['kind=dropped', '/kind'],
  ['code=not_held', '/code'],
  ['state=pending', '/state'],
])('?%s is refused', async (query, pointer) => {
  await using api = await serveStub();
  expect(problemOf(await api.send('GET', `/v1/stores/crm/quarantine?${query}`, { key: 'operator' }))).toEqual(
    [422, 'invalid-value', [pointer]],
  );
});

test('nothing takes anything out: there is no other verb', async () => {
  await using api = await serveStub();
  for (const path of ['/v1/stores/crm/quarantine', '/v1/stores/crm/quarantine/7'])
    for (const method of ['DELETE', 'PUT', 'PATCH'] as const)
      expect(problemOf(await api.send(method, path, { key: 'operator' }))).toEqual([
        405,
        'method-not-allowed',
      ]);
});
