import { expect, test } from '@jest/globals';
import { AbideError } from '../../../suppression/errors.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import { LAG } from '../stub-ledger.ts';

test('the lag is answered as the ledger has it', async () => {
  await using api = await serveStub();
  const { status, text } = await api.send('GET', '/v1/propagation-lag', { key: 'shop' });
  expect([status, text]).toEqual([200, JSON.stringify(LAG)]);
});

test.each([
  ['ok', 200],
  ['paused', 200],
  ['backfilling', 200],
  ['late', 503],
  ['unknown', 503],
] as const)('fail_on=late: %s is %i, with the same body', async (lag, status) => {
  await using api = await serveStub({ lag: () => Promise.resolve({ ...LAG, status: lag }) });
  const plain = await api.send('GET', '/v1/propagation-lag', { key: 'shop' });
  const pager = await api.send('GET', '/v1/propagation-lag?fail_on=late', { key: 'shop' });
  expect([plain.status, pager.status, pager.headers['content-type']]).toEqual([
    200,
    status,
    'application/json; charset=utf-8',
  ]);
  expect(pager.text).toBe(plain.text);
});

test.each([
  ['?fail_on=never', '/fail_on'],
  ['?fail_on=', '/fail_on'],
  ['?fail_on=late&fail_on=late', '/fail_on'],
  ['?failon=late', '/failon'],
])('%s is refused: a pager that is misspelt must not be silent', async (query, pointer) => {
  await using api = await serveStub();
  expect(problemOf(await api.send('GET', `/v1/propagation-lag${query}`, { key: 'shop' }))).toEqual([
    422,
    'invalid-value',
    [pointer],
  ]);
});

test('a lag that cannot be read is a problem, never a green light', async () => {
  await using api = await serveStub({ lag: () => Promise.reject(new AbideError('ledger-unavailable')) });
  for (const query of ['', '?fail_on=late'])
    expect(problemOf(await api.send('GET', `/v1/propagation-lag${query}`, { key: 'shop' }))).toEqual([
      503,
      'ledger-unavailable',
    ]);
});
