import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { UnreadableRow } from '../../stream/decision-row.ts';
import { createHttpLedgerAccess } from '../../consumers/http-ledger-access.ts';
import type { LedgerAccess } from '../../consumers/ledger-access.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import { toMilliseconds } from '../../ledger/database.ts';
import type { AcknowledgementReport } from '../../suppression/acknowledgement.ts';
import { AbideError } from '../../suppression/errors.ts';
import { grant, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';
import { serveLedger } from '../harness/served-ledger.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';

/** A ledger behind the API with store crm, and its worker's way to it. */
async function apart(instead: Partial<Ledger> = {}, { key }: { key?: string } = {}) {
  const stack = new AsyncDisposableStack();
  const api = stack.use(await serveLedger(instead));
  await api.t.register({ name: 'crm' }, { name: 'mail' });
  const line = stack.use(await startTcpProxy({ host: '127.0.0.1', port: api.port }));
  const access = async (store: string, token?: string, answerMsMax = 5_000): Promise<LedgerAccess> =>
    stack.use(
      createHttpLedgerAccess({
        url: `http://127.0.0.1:${line.port}`,
        key: token ?? (await api.workerKey(store)),
        store,
        workerId: 'worker-1',
        answerMsMax,
      }),
    );
  return {
    api,
    t: api.t,
    line,
    access,
    crm: await access('crm', key),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const { signal } = new AbortController();
const everything = { limit: 100, signal };

test('over HTTP a worker gets and says all that it would in the process of the API', async () => {
  await using t = await apart();
  const { ledger } = t.t;
  await ledger.record(intent('ada@example.com', { scopes: ['email', 'sms'] }), render);
  const [first] = await outstandingOf(ledger, 'crm');
  await grant(t.t, first!.subjectId, ['sms']);
  await t.crm.acknowledge(report([]), signal);
  const page = await t.crm.outstanding(everything);
  const own = (await outstandingOf(ledger, 'crm')).map((one) => ({ ...one, traceparent: undefined }));
  expect(own).toHaveLength(2);
  const { targetSince } = ledger.stores().find(({ name }) => name === 'crm')!;
  expect(page).toEqual({
    generation: 1,
    targetSince: toMilliseconds(targetSince),
    decisions: own,
    unreadable: [],
    next: undefined,
  });
  expect((await t.crm.outstanding({ limit: 1, signal })).next).toBe(`live:${first!.seq}`);

  expect(await t.crm.transportKey(1, signal)).toEqual(await ledger.transportKey(1));
  expect(await t.crm.newest(first!.subjectId, signal)).toEqual(await ledger.newest('crm', first!.subjectId));
  // For an unknown subject the answer must not say that this is the newest decision.
  await expect(t.crm.newest('00000000-0000-0000-0000-000000000000', signal)).rejects.toMatchObject({
    code: 'not-found',
  });

  const [optOut, lifted] = page.decisions;
  const full: AcknowledgementReport = {
    generation: 1,
    worker: {
      id: 'worker-1',
      incarnation: 'one',
      lastError: { code: 'STORE_TIMEOUT', at: '2026-11-24T09:00:00.000Z' },
      source: { kind: 'http', status: 'ok', position: '2', positionAgeSeconds: 0.1, parked: 3 },
    },
    acknowledgements: [
      verified(optOut!, {
        carriedBy: 'redrive',
        attempts: 2,
        evidence: {
          consumedAt: optOut!.recordedAt,
          appliedAt: optOut!.recordedAt,
          verifiedAt: optOut!.recordedAt,
        },
      }),
      verified(lifted!, {
        outcome: 'refused',
        code: 'LIST_IS_FULL',
        held: { version: undefined, suppressed: [] },
      }),
      verified({ ...lifted!, seq: 99 }),
    ],
  };
  expect(await t.crm.acknowledge(full, signal)).toEqual({
    accepted: 2,
    duplicate: 0,
    rejected: [{ seq: 99, code: 'unknown_seq' }],
  });
  const { rows } = await t.t.pool.query('select report from workers');
  expect(rows).toEqual([
    {
      report: {
        incarnation: 'one',
        lastError: full.worker.lastError,
        source: full.worker.source,
      },
    },
  ]);

  await ledger.retryParked(
    'crm',
    { all: true },
    { client: 'ops', keyId: 'ops', address: '10.0.0.7', requestId: 'r-1' },
  );
  const askedAgain = (await t.crm.outstanding(everything)).decisions;
  expect(askedAgain).toMatchObject([{ seq: lifted!.seq, asked: 1 }]);
  expect(askedAgain.map((one) => ({ ...one, traceparent: undefined }))).toEqual(
    (await outstandingOf(ledger, 'crm')).map((one) => ({ ...one, traceparent: undefined })),
  );
  await t.crm.acknowledge(
    report([
      verified(askedAgain[0]!, {
        outcome: 'failed',
        code: 'NOT_HELD',
        attempts: 2,
        asked: askedAgain[0]!.asked,
      }),
    ]),
    signal,
  );
  expect((await t.crm.outstanding(everything)).decisions).toEqual([]);
});

test('an empty page is held until something is due, and let go when nobody waits any more', async () => {
  await using t = await apart();
  await t.crm.acknowledge(report([]), signal);
  const held = t.crm.outstanding({ ...everything, waitMs: 20_000 });
  await t.t.ledger.record(intent('ada@example.com'), render);
  expect((await held).decisions).toHaveLength(1);
  const gone = new AbortController();
  const waiting = t.crm.outstanding({ after: 'live:1', limit: 10, waitMs: 20_000, signal: gone.signal });
  gone.abort();
  await expect(waiting).rejects.toMatchObject({ name: 'AbortError' });
});

test.each([
  ['no key of ours', 401, 'unauthenticated'],
  ['a key that may not', 403, 'missing-scope'],
  ['a key of another store', 404, 'not-found'],
] as const)('%s is told so (%i), and the connection serves the next call', async (what, _status, code) => {
  await using t = await apart();
  const keys = {
    'no key of ours': () => Promise.resolve('abide_live_wrong'),
    'a key of another store': () => t.api.workerKey('mail'),
    'a key that may not': async () =>
      (
        await t.t.ledger.createKey({
          client: 'shop',
          scopes: ['opt_outs:write'],
          store: undefined,
          expiresAt: undefined,
          caller: undefined,
        })
      ).token,
  };
  const crm = await t.access('crm', await keys[what]());
  for (let n = 0; n < 20; n += 1) {
    await expect(crm.outstanding(everything)).rejects.toMatchObject({ name: 'AbideError', code });
    await expect(crm.acknowledge(report([]), signal)).rejects.toMatchObject({ code });
  }
  // A body that is not read keeps its connection, and every call would need another. (Two, since the first may still be busy.)
  expect(t.line.connections).toBeLessThanOrEqual(2);
});

test('a page to compare with a row that this worker cannot read is none: nothing is claimed of it', async () => {
  const decision = {
    ...{ seq: 1, optOutId: undefined, subjectId: '01a21107-f430-70b1-a43b-3e14ea64dc11', version: 1 },
    ...{ kind: 'fax' as never, suppressed: {}, granted: {}, sealed: undefined, transportKeyId: undefined },
    ...{ effectiveAt: '2026-11-24T09:00:00.000Z', recordedAt: '2026-11-24T09:00:00.000Z' },
    traceparent: undefined,
  };
  const nobody = '00000000-0000-0000-0000-000000000000';
  const page = {
    run: 1,
    generation: 1,
    after: nobody,
    through: decision.subjectId,
    isLast: true,
    pauseMs: 0,
  };
  await using t = await apart({
    reconciliationPage: () => Promise.resolve({ ...page, decisions: [decision] }),
  });
  await expect(t.crm.reconciliationPage(signal)).rejects.toBeInstanceOf(UnreadableRow);
});

// Behind a gateway, a worker asked the gateway itself, while every command beside it asked the API.
test.each(['', '/', '/abide', '/abide/'])(
  'the API is asked below the path that its URL has (%j)',
  async (below) => {
    const asked: (string | undefined)[] = [];
    const gateway = createServer(({ url }, response) => {
      asked.push(url);
      response.end('{"canary":null}');
    }).listen(0, '127.0.0.1');
    await using stack = new AsyncDisposableStack();
    stack.use(gateway);
    await once(gateway, 'listening');
    const url = `http://127.0.0.1:${(gateway.address() as AddressInfo).port}${below}`;
    const crm = stack.use(createHttpLedgerAccess({ url, key: 'a-key', store: 'crm', workerId: 'worker-1' }));

    await crm.canary(signal);

    expect(asked).toEqual([`${below.replace(/\/$/, '')}/v1/stores/crm/canary`]);
  },
);

test('a store that the ledger does not know is not found', async () => {
  await using t = await apart();
  const access = await t.access('nobody');
  await expect(access.outstanding(everything)).rejects.toMatchObject({ code: 'not-found' });
});

test('an API that does not know what it is asked is said to be of another version, and what it does not know', async () => {
  const errors = [{ pointer: '/target_since', detail: 'is not known here' }];
  await using t = await apart({
    outstanding: () => Promise.reject(new AbideError('invalid-value', undefined, { errors })),
  });
  await expect(t.crm.outstanding(everything)).rejects.toMatchObject({
    code: 'ledger-unavailable',
    message: expect.stringMatching(
      /target_since is not known here\. The API is of another version: upgrade it/,
    ),
  });
});

test('an unknown transport key is not found: it is destroyed', async () => {
  await using t = await apart();
  await expect(t.crm.transportKey(77, signal)).rejects.toMatchObject({ code: 'not-found' });
});

test('while the ledger is away (503) the worker waits as long as it is asked to, unless it is stopped', async () => {
  const away = new AbideError('ledger-unavailable', undefined, { retryAfterSeconds: 1 });
  await using t = await apart({ outstanding: () => Promise.reject(away) });
  const began = performance.now();
  await expect(t.crm.outstanding(everything)).rejects.toMatchObject({ code: 'ledger-unavailable' });
  expect(performance.now() - began).toBeGreaterThan(950);
  const stopped = new AbortController();
  const waiting = t.crm.outstanding({ ...everything, signal: stopped.signal });
  setTimeout(() => stopped.abort(), 50);
  await expect(waiting).rejects.toMatchObject({ name: 'AbortError' });
  expect(t.line.connections).toBeLessThanOrEqual(2);
});

test.each(['refuse', 'hang', 'lose_answer'] as const)(
  'a line that fails (%s) is the ledger being away, soon, and no secret is in what is said of it',
  async (fault) => {
    await using t = await apart();
    await t.crm.acknowledge(report([]), signal);
    const crm = await t.access('crm', undefined, 500);
    t.line.setFault(fault);
    const began = performance.now();
    const failure: unknown = await crm.outstanding(everything).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(AbideError);
    expect(failure).toMatchObject({
      code: 'ledger-unavailable',
      message: 'The API does not answer GET /v1/stores/crm/outstanding.',
    });
    // undici checks its time limits only every half second or so.
    expect(performance.now() - began).toBeLessThan(5_000);
    t.line.setFault('none');
    expect((await t.crm.outstanding(everything)).decisions).toEqual([]);
  },
);

test.each([
  ['drips', 'a piece of it comes now and then'],
  ['is cut', 'its line ends in its middle'],
])('an answer that %s is the ledger being away as well: %s', async (how) => {
  const api = createServer((_request, response) => {
    response.write('{"canary":');
    if (how === 'is cut') return void setImmediate(() => response.destroy());
    const dripping = setInterval(() => response.write(' '), 20);
    response.once('close', () => clearInterval(dripping));
  }).listen(0, '127.0.0.1');
  await using stack = new AsyncDisposableStack();
  stack.use(api);
  await once(api, 'listening');
  const url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
  const crm = stack.use(
    createHttpLedgerAccess({ url, key: 'a-key', store: 'crm', workerId: 'worker-1', answerMsMax: 100 }),
  );
  await expect(crm.canary(signal)).rejects.toMatchObject({
    code: 'ledger-unavailable',
    message: 'The API does not answer GET /v1/stores/crm/canary.',
  });
});
