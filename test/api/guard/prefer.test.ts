import { describe, expect, test } from '@jest/globals';
import { renderFound } from '../../../api/v1/opt-outs.ts';
import { AbideError } from '../../../suppression/errors.ts';
import { eventually } from '../../harness/eventually.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import { COMPLETE, FOUND, ID, PENDING } from '../stub-ledger.ts';

const optOut = { subject: { email: 'ada@example.com' } };

/** How long each call would have waited, in order; undefined if it did not ask to. */
async function waits(prefer: readonly (string | string[] | undefined)[]) {
  const asked: (number | undefined)[] = [];
  await using api = await serveStub({
    waitForPropagation: (_id, waitMs) => {
      asked.push(waitMs);
      return Promise.resolve(COMPLETE);
    },
  });
  const applied: (string | undefined)[] = [];
  for (const one of prefer) {
    const before = asked.length;
    const answer = await api.send('POST', '/v1/opt-outs', {
      key: 'shop',
      body: optOut,
      headers: one === undefined ? {} : { Prefer: one },
    });
    if (asked.length === before) asked.push(undefined);
    applied.push(answer.headers['preference-applied']);
    expect(answer.headers.vary).toBe('Prefer');
    expect(answer.status).toBe(201);
  }
  return { asked, applied };
}

describe('Prefer: wait', () => {
  test.each([
    [['wait=5'], 5_000, 'wait=5'],
    [['wait=0'], 0, 'wait=0'],
    [['Wait = 5'], 5_000, 'wait=5'],
    [['wait="5"'], 5_000, 'wait=5'],
    [['wait=5; foo=bar'], 5_000, 'wait=5'],
    [['respond-async, wait=5'], 5_000, 'wait=5'],
    [['return=minimal', 'wait=5'], 5_000, 'wait=5'],
    [['wait=5, wait=7'], 5_000, 'wait=5'],
    [['wait=30'], 30_000, 'wait=30'],
    [['wait=31'], 30_000, 'wait=30'],
    [['wait=99999999999999999999999'], 30_000, 'wait=30'],
    [['wait'], undefined, undefined],
    [['wait='], undefined, undefined],
    [['wait=-1'], undefined, undefined],
    [['wait=1.5'], undefined, undefined],
    [['wait=0x10'], undefined, undefined],
    [['wait="5'], undefined, undefined],
    [['await=5'], undefined, undefined],
    [['respond-async'], undefined, undefined],
    [[''], undefined, undefined],
  ] as const)('%j waits %p ms and says %p', async (prefer, ms, said) => {
    expect(await waits([[...prefer]])).toEqual({ asked: [ms], applied: [said] });
  });

  test('is a wish: without it nothing waits', async () => {
    expect(await waits([undefined])).toEqual({ asked: [undefined], applied: [undefined] });
  });

  test('makes the propagation alone live, in replays too: the rest stays byte for byte', async () => {
    const { in_force: _, propagation, ...rest } = renderFound(FOUND);
    const head = JSON.stringify({ ...rest, idempotency_key: '"propagation":{}' }).slice(0, -1);
    const first = `${head},"propagation":${JSON.stringify(propagation)}}`;
    await using api = await serveStub({
      record: () =>
        Promise.resolve({ status: 201, body: first, replayed: true, optOutId: ID, decisions: [] }),
    });
    const ask = { key: 'shop', body: optOut };
    const plain = await api.send('POST', '/v1/opt-outs', ask);
    const waited = await api.send('POST', '/v1/opt-outs', { ...ask, headers: { Prefer: 'wait=1' } });
    expect(plain.text).toBe(first);
    expect(waited.text).toBe(
      `${head},"propagation":${JSON.stringify({
        state: 'complete',
        required: 3,
        confirmed: 3,
        verified: 2,
        uncovered: [],
        url: `/v1/opt-outs/${ID}/propagation`,
      })}}`,
    );
    for (const { status, headers } of [plain, waited])
      expect([status, headers.location, headers['idempotency-replayed'], headers['content-type']]).toEqual([
        201,
        `/v1/opt-outs/${ID}`,
        'true',
        'application/json; charset=utf-8',
      ]);
  });

  test('that cannot be kept answers what was recorded, and does not say that it was kept', async () => {
    await using api = await serveStub({
      waitForPropagation: () => Promise.reject(new AbideError('ledger-unavailable')),
    });
    const answer = await api.send('POST', '/v1/opt-outs', {
      key: 'shop',
      body: optOut,
      headers: { Prefer: 'wait=5' },
    });
    expect([answer.status, answer.json.propagation.state]).toEqual([201, 'pending']);
    expect(answer.headers['preference-applied']).toBeUndefined();
    expect(api.log).toMatchObject(
      [{ level: 'warn', fields: { requestId: answer.headers['x-request-id'] }, message: /recorded/ }].map(
        (line) => ({ ...line, message: expect.stringMatching(line.message) }),
      ),
    );
  });

  test('is not waited for where nothing was recorded, nor said to be applied', async () => {
    await using api = await serveStub({
      record: () => Promise.reject(new AbideError('idempotency-key-reused')),
      waitForPropagation: () => Promise.reject(new Error('must not wait')),
    });
    const answer = await api.send('POST', '/v1/opt-outs', {
      key: 'shop',
      body: optOut,
      headers: { Prefer: 'wait=5' },
    });
    expect(problemOf(answer)).toEqual([422, 'idempotency-key-reused']);
    expect(answer.headers['preference-applied']).toBeUndefined();
    expect(answer.headers.vary).toBe('Prefer');
  });

  test('ends when its client has gone', async () => {
    let signal: AbortSignal | undefined;
    await using api = await serveStub({
      waitForPropagation: (_id, _ms, gone) => {
        signal = gone;
        return new Promise((resolve) => gone.addEventListener('abort', () => resolve(PENDING)));
      },
    });
    const client = new AbortController();
    const call = api.send('POST', '/v1/opt-outs', {
      key: 'shop',
      body: optOut,
      headers: { Prefer: 'wait=30' },
      signal: client.signal,
    });
    await eventually(() => expect(signal).toBeDefined());
    expect(signal!.aborted).toBe(false);
    client.abort();
    await expect(call).rejects.toThrow();
    await eventually(() => expect(signal!.aborted).toBe(true));
  });

  test('works on the propagation and on what is outstanding', async () => {
    const asked: [string, number][] = [];
    await using api = await serveStub({
      waitForPropagation: (id, waitMs) => {
        asked.push([id, waitMs]);
        return Promise.resolve(COMPLETE);
      },
      outstanding: (store, { waitMs }) => {
        asked.push([store, waitMs]);
        return Promise.resolve({
          generation: 1,
          targetSince: '2026-11-01T08:00:00.000Z',
          decisions: [],
          next: undefined,
        });
      },
    });
    const headers = { Prefer: 'wait=12' };
    const propagation = await api.send('GET', `/v1/opt-outs/${ID}/propagation`, { key: 'shop', headers });
    const outstanding = await api.send('GET', '/v1/stores/crm/outstanding', { key: 'crm', headers });
    expect(asked).toEqual([
      [ID, 12_000],
      ['crm', 12_000],
    ]);
    expect(propagation.json.state).toBe('complete');
    for (const answer of [propagation, outstanding])
      expect([answer.headers['preference-applied'], answer.headers.vary]).toEqual(['wait=12', 'Prefer']);
    const without = await api.send('GET', `/v1/opt-outs/${ID}/propagation`, { key: 'shop' });
    expect([without.json.state, without.headers['preference-applied'], without.headers.vary]).toEqual([
      'pending',
      undefined,
      'Prefer',
    ]);
  });
});
