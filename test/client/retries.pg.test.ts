// What the client does if the line, the server or somebody on the way fails: real server, real ledger, real sockets.
import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createAbide } from 'abide/client';
import type { Abide, AbideOptions } from 'abide/client';
import { toOpenApi } from '../../api/public/openapi.ts';
import { servedVersions } from '../../api/version.ts';
import { VERSIONS } from '../../api/versions.ts';
import { KEYED } from '../../client/call.ts';
import { KEY_SCOPES } from '../../ledger/contract/api-keys.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import { eventually } from '../harness/eventually.ts';
import { serveLedger } from '../harness/served-ledger.ts';
import type { ServedLedger } from '../harness/served-ledger.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';
import type { TcpProxy } from '../harness/tcp-proxy.ts';
import { problemOf } from './problem-of.ts';
import { watchedFetch } from './watched-fetch.ts';

let served: ServedLedger;
let proxy: TcpProxy;
let key: string;
/** What the ledger says, one after the other, instead of recording. */
const refusals: AbideError[] = [];
beforeAll(async () => {
  const record: Ledger['record'] = (intent, render) => {
    const refusal = refusals.shift();
    return refusal === undefined ? served.t.ledger.record(intent, render) : Promise.reject(refusal);
  };
  served = await serveLedger({ record });
  proxy = await startTcpProxy({ host: '127.0.0.1', port: served.port });
  const scopes = KEY_SCOPES.filter((scope) => scope !== 'acknowledgements:write');
  const fields = { client: 'shop', scopes, store: undefined, expiresAt: undefined, caller: undefined };
  key = (await served.t.ledger.createKey(fields)).token;
});
afterAll(async () => {
  await proxy[Symbol.asyncDispose]();
  await served[Symbol.asyncDispose]();
});

const throughProxy = (options: Partial<AbideOptions> = {}): Abide =>
  createAbide({ url: `http://127.0.0.1:${proxy.port}`, key, ...options } as AbideOptions);
const direct = (options: Partial<AbideOptions> = {}): Abide =>
  createAbide({ url: served.url, key, ...options } as AbideOptions);

let people = 0;
const optOut = () => ({ identifiers: [{ email: `person${(people += 1)}@example.com` }], scopes: ['email'] });

const decisionsOf = async (id: string): Promise<number> => {
  const { rows } = await served.t.pool.query<{ n: number }>(
    'select count(*)::int as n from decisions where opt_out_id = $1',
    [id],
  );
  return rows[0]!.n;
};
const recordedInAll = async (): Promise<number> =>
  (await served.t.pool.query<{ n: number }>('select count(*)::int as n from opt_outs')).rows[0]!.n;

test('an answer that is lost after the write: tried again under the same key, recorded once', async () => {
  const { fetch, passed } = watchedFetch();
  const before = await recordedInAll();
  proxy.setFault('lose_answer');
  const creating = throughProxy({ fetch }).optOuts.create(optOut());
  await eventually(async () =>
    expect([passed.length > 1, await recordedInAll()]).toEqual([true, before + 1]),
  );
  proxy.setFault('none');

  const { id, outcome } = await creating;
  expect(outcome).toBe('recorded');
  expect(new Set(passed.map((one) => one.key))).toEqual(new Set([expect.stringMatching(/^[0-9a-f-]{36}$/)]));
  expect([await recordedInAll(), await decisionsOf(id)]).toEqual([before + 1, 1]);
});

test('a request that is cut in the middle is sent again', async () => {
  const { fetch, passed } = watchedFetch();
  proxy.setFault('cut_request');
  const creating = throughProxy({ fetch }).optOuts.create(optOut());
  await eventually(() => expect(passed.length).toBeGreaterThan(1));
  proxy.setFault('none');
  expect(await creating).toMatchObject({ outcome: 'recorded' });
});

test('a restart of the API is waited for', async () => {
  const { fetch, passed } = watchedFetch();
  await served.stopApi();
  const creating = direct({ fetch }).optOuts.create(optOut());
  await eventually(() => expect(passed.length).toBeGreaterThan(2));
  await served.startApi();
  expect(await creating).toMatchObject({ outcome: 'recorded' });
});

test.each(['overloaded', 'ledger-unavailable', 'idempotency-key-in-use', 'internal-error'] as const)(
  'what the API answers with %s is tried again when it says',
  async (code) => {
    const { fetch, passed } = watchedFetch();
    refusals.push(new AbideError(code));
    expect(await direct({ fetch }).optOuts.create(optOut())).toMatchObject({ outcome: 'recorded' });
    expect(passed).toHaveLength(2);
    const [first, second] = passed.map(({ at }) => at) as [number, number];
    // 500 has no Retry-After.
    expect(second - first).toBeGreaterThan(code === 'internal-error' ? 40 : 1_000);
    expect(passed[0]!.key).toBe(passed[1]!.key);
  },
);

test('what asks for more time than there is is told at once, with how long it would be', async () => {
  refusals.push(new AbideError('overloaded', undefined, { retryAfterSeconds: 3_600 }));
  const problem = await problemOf(direct().optOuts.create(optOut()));
  expect(problem).toMatchObject({ code: 'overloaded', retryable: true, retryAfterSeconds: 3_600 });
});

test('what is wrong with a request is not asked twice', async () => {
  const { fetch, passed } = watchedFetch();
  const wrong = { identifiers: [{ email: 'nobody' }], scopes: ['email'] };
  expect((await problemOf(direct({ fetch }).optOuts.create(wrong))).code).toBe('invalid-value');
  expect(passed).toHaveLength(1);
});

test('what would be done twice is never sent twice', async () => {
  const { fetch, passed } = watchedFetch();
  proxy.setFault('refuse');
  const retrying = throughProxy({ fetch }).call('POST /v1/stores/{name}/quarantine/retry', {
    path: { name: 'crm' },
    body: { all: true },
  });
  expect((await problemOf(retrying)).code).toBe('no-answer');
  expect(passed).toHaveLength(1);
  proxy.setFault('none');
});

test('every call that takes an Idempotency-Key is one that the client names, and no other', () => {
  const keyed = servedVersions(VERSIONS).flatMap((name) =>
    Object.entries(toOpenApi(name, VERSIONS).paths).flatMap(([path, methods]) =>
      Object.entries(methods)
        .filter(([, { parameters = [] }]) => parameters.some((one) => one.name === 'Idempotency-Key'))
        .map(([method]) => `${method.toUpperCase()} ${path}`),
    ),
  );
  expect([...KEYED].sort()).toEqual(keyed.sort());
});

describe('it ends', () => {
  test('after so many tries', async () => {
    const { fetch, passed } = watchedFetch();
    proxy.setFault('refuse');
    const problem = await problemOf(throughProxy({ fetch, triesMax: 3 }).lag());
    proxy.setFault('none');
    expect(problem).toMatchObject({ code: 'no-answer', retryable: true, status: undefined });
    expect(problem.message).toBe(`Nobody answers GET /v1/propagation-lag at http://127.0.0.1:${proxy.port}.`);
    expect(passed).toHaveLength(3);
  });

  test('after so long, whatever hangs', async () => {
    const { fetch, passed } = watchedFetch();
    proxy.setFault('hang');
    const began = performance.now();
    const problem = await problemOf(throughProxy({ fetch, timeoutMs: 3_000, tryTimeoutMs: 300 }).lag());
    const tookMs = performance.now() - began;
    proxy.setFault('none');
    expect(problem).toMatchObject({ code: 'no-answer', retryable: true });
    expect(problem.message).toMatch(/^No answer to GET \/v1\/propagation-lag within \d+ ms\.$/);
    expect(passed.length).toBeGreaterThan(1);
    // Of itself it would go on for half a minute.
    expect([tookMs > 1_000, tookMs < 20_000]).toEqual([true, true]);
  });

  test.each([Infinity, 30 * 24 * 3_600_000])('not at once where it may take %d ms', async (ms) => {
    const { fetch, passed } = watchedFetch();
    expect(await direct({ fetch, timeoutMs: ms, tryTimeoutMs: ms }).lag()).toMatchObject({ sources: [] });
    expect(passed).toHaveLength(1);
  });

  test('not before `Retry-After`, however long that is', async () => {
    const { fetch, passed } = watchedFetch(() =>
      Response.json({}, { status: 503, headers: { 'retry-after': '9999999' } }),
    );
    const ending = new AbortController();
    const asking = direct({ fetch, timeoutMs: Infinity }).lag({ signal: ending.signal });
    // A second try would come during this one call, which takes many times as long as a turn of the loop.
    await eventually(() => expect(passed).toHaveLength(1));
    await direct().lag();
    expect(passed).toHaveLength(1);
    ending.abort(new Error('enough'));
    await expect(asking).rejects.toThrow('enough');
  });
});

describe('what answers is not Abide', () => {
  /** Another server, for as long as `ask` takes. */
  async function instead<T>(listener: RequestListener, ask: (url: string) => Promise<T>): Promise<T> {
    const server = createServer(listener);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      return await ask(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    } finally {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  test('a page, though it says 200', async () => {
    const problem = await instead(
      (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>Welcome</h1>'),
      (url) => problemOf(createAbide({ url, key }).lag()),
    );
    expect(problem).toMatchObject({ code: 'unexpected-answer', status: 200, retryable: false });
  });

  test('JSON of another kind, though it says 200: nothing is taken for recorded, allowed or listed', async () => {
    const asks: readonly ((abide: Abide) => Promise<unknown>)[] = [
      (abide) => abide.optOuts.create(optOut()),
      (abide) => abide.optOuts.waitUntilPropagated('an-id'),
      (abide) => abide.optOuts.list().next(),
      (abide) => abide.checks.ask([{ identifiers: [{ email: 'ada@example.com' }], scope: 'email' }]),
      (abide) => abide.imports.create(new Blob(['email\n']), { format: 'csv', scopes: ['email'] }),
      (abide) => abide.imports.waitUntilDone('an-id'),
      // `abide lag --json --fail-on late` ended with 0 for as long as another server said this.
      (abide) => abide.lag(),
      (abide) => abide.gate('crm'),
      (abide) => abide.call('POST /v1/opt-outs', { body: { subject: { email: 'ada@example.com' } } }),
      (abide) =>
        abide.call('POST /v1/checks', {
          body: { items: [{ subject: { email: 'ada@example.com' }, channel: 'email' }] },
        }),
      (abide) =>
        abide.call('POST /v1/stores/{name}/quarantine/retry', { path: { name: 'crm' }, body: { all: true } }),
    ];
    for (const body of ['{"status":"ok"}', '[]', '{"as_of":"2026-11-24T09:00:00.000Z","items":[]}'])
      for (const ask of asks) {
        const problem = await instead(
          (request, response) => request.resume().on('end', () => response.end(body)),
          (url) => problemOf(ask(createAbide({ url, key }))),
        );
        expect(problem).toMatchObject({ code: 'unexpected-answer', status: 200, retryable: false });
      }
  });

  test('a list without its items is none', async () => {
    const body = '{"object":"list","next_cursor":null}';
    const problem = await instead(
      (request, response) => request.resume().on('end', () => response.end(body)),
      (url) => problemOf(createAbide({ url, key }).optOuts.list().next()),
    );
    expect(problem).toMatchObject({ code: 'unexpected-answer', status: 200 });
  });

  test('a redirect: neither key nor addresses go where it leads', async () => {
    const seen: (string | undefined)[] = [];
    const problem = await instead(
      (request, response) => {
        seen.push(request.url);
        response.writeHead(307, { location: '/elsewhere' }).end();
      },
      (url) => problemOf(createAbide({ url, key }).optOuts.create(optOut())),
    );
    expect(problem).toMatchObject({ code: 'unexpected-answer', status: 307 });
    expect(seen).toEqual(['/v2/opt-outs']);
  });

  test.each([408, 429, 502, 503, 504])(
    'a proxy that says %d in its own words: tried again',
    async (status) => {
      let asked = 0;
      const answer = { as_of: '2026-11-24T09:00:00.000Z', items: [], object: 'checks' };
      await instead(
        (_, response) => {
          asked += 1;
          if (asked === 1) response.writeHead(status, { 'content-type': 'text/html' }).end('<h1>Sorry</h1>');
          else response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
        },
        (url) => createAbide({ url, key }).checks.ask([]),
      );
      expect(asked).toBe(2);
    },
  );

  test('a path in front of the API is kept', async () => {
    const seen: (string | undefined)[] = [];
    await instead(
      (request, response) => {
        seen.push(request.url);
        response.end('{}');
      },
      (url) => problemOf(createAbide({ url: `${url}/abide/`, key }).lag()),
    );
    expect(seen).toEqual(['/abide/v1/propagation-lag']);
  });
});
