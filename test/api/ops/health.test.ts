import { describe, expect, test } from '@jest/globals';
import { AbideError } from '../../../suppression/errors.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import { LAG } from '../stub-ledger.ts';

test('a process that runs is alive, whatever else is wrong', async () => {
  await using api = await serveStub(
    { ready: () => Promise.reject(new AbideError('ledger-unavailable')) },
    { isReady: () => false },
  );
  const { status, json } = await api.send('GET', '/livez');
  expect([status, json]).toEqual([200, { status: 'alive' }]);
});

describe('readiness', () => {
  test('is 200 once it has started and its ledger answers', async () => {
    await using api = await serveStub();
    const { status, json } = await api.send('GET', '/readyz');
    expect([status, json]).toEqual([200, { status: 'ready' }]);
  });

  test('is 503 while it starts, without asking the ledger', async () => {
    let ready = false;
    await using api = await serveStub(
      { ready: () => (ready ? Promise.resolve() : Promise.reject(new Error('asked too early'))) },
      { isReady: () => ready },
    );
    const answer = await api.send('GET', '/readyz');
    expect(problemOf(answer)).toEqual([503, 'ledger-unavailable']);
    expect(answer.headers['retry-after']).toBe('1');
    ready = true;
    expect((await api.send('GET', '/readyz')).status).toBe(200);
  });

  test('is 503 while the ledger cannot be asked', async () => {
    await using api = await serveStub({ ready: () => Promise.reject(new AbideError('ledger-unavailable')) });
    expect(problemOf(await api.send('GET', '/readyz'))).toEqual([503, 'ledger-unavailable']);
  });

  test('does not depend on a store: a late one is not an unready API', async () => {
    await using api = await serveStub({ lag: () => Promise.resolve({ ...LAG, status: 'late' }) });
    expect((await api.send('GET', '/readyz')).status).toBe(200);
  });
});

test('on a listener of their own, health and metrics are on no other, and the API is not on theirs', async () => {
  await using api = await serveStub({}, { opsOnSameListener: false });
  for (const path of ['/livez', '/readyz', '/metrics']) {
    expect(problemOf(await api.send('GET', path))).toEqual([404, 'not-found']);
    expect((await api.sendOps('GET', path)).status).toBe(200);
    expect(problemOf(await api.sendOps('POST', path))).toEqual([405, 'method-not-allowed']);
  }
  expect((await api.send('GET', '/v1/opt-outs', { key: 'shop' })).status).toBe(200);
  for (const path of ['/v1/opt-outs', '/v1/propagation-lag'])
    expect(problemOf(await api.sendOps('GET', path, { key: 'shop' }))).toEqual([404, 'not-found']);
});
