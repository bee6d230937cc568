import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, describe, expect, test } from '@jest/globals';
import { Item } from '../../connectors/contract/connector.ts';
import type { Store } from '../../connectors/contract/connector.ts';
import http, { retryAfterMs, sign } from '../../connectors/http.ts';
import { Address } from '../../suppression/subject.ts';
import { describeConnector } from '../conformance/connector.ts';
import { startHttpStore } from '../harness/http-store.ts';

const example = await startHttpStore();
afterAll(async () => {
  await example[Symbol.asyncDispose]();
});
const { hostname, port } = new URL(example.url);

describeConnector('http, to the example store', {
  connector: http,
  // No two tests of the suite share a person, so they may share the store.
  open: () =>
    Promise.resolve({
      options: { url: `${example.url}/suppressions`, secret: example.secret, allow_private: true },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
  line: {
    host: hostname,
    port: Number(port),
    through: (options, proxyPort) => ({ ...options, url: `http://127.0.0.1:${proxyPort}/suppressions` }),
  },
  byItself: (_place, { kind, key }, scope, isSuppressed) =>
    example.setScope(`${kind}:${key}`, scope, isSuppressed),
  badKey: () => Promise.resolve(''),
});

// --- what only HTTP does

const SECRET = 'a secret of the tests';
const SINCE = '2026-11-24T09:00:00.000Z';
const signal = (): AbortSignal => AbortSignal.timeout(10_000);

const optOut = (key: string, scopes: readonly string[] = ['email']): Item =>
  new Item({
    seq: 7,
    version: 3,
    subject: { kind: 'email', value: new Address(key) },
    key,
    suppressed: Object.fromEntries(scopes.map((scope) => [scope, SINCE])),
    granted: {},
    effectiveAt: SINCE,
    lane: 'live',
  });
const email = (key: string) => ({ kind: 'email', key }) as const;

type Request = { method: string; url: string; headers: IncomingHttpHeaders; body: string };
type Answer = { status?: number; headers?: Record<string, string>; body?: unknown };

/** A store that answers as the test says (undefined: the test answers itself), its server, and what it was asked. */
async function given(
  answer: (request: Request, response: ServerResponse) => Answer | undefined,
  options: object = {},
  scopes: ReadonlyMap<string, unknown> = new Map(),
) {
  const stack = new AsyncDisposableStack();
  const asked: Request[] = [];
  let connections = 0;
  const server = createServer((incoming, response) => {
    void (async () => {
      const chunks: Buffer[] = [];
      for await (const chunk of incoming) chunks.push(chunk as Buffer);
      const { method = '', url = '', headers } = incoming;
      const request = { method, url, headers, body: Buffer.concat(chunks).toString() };
      asked.push(request);
      const answered = answer(request, response);
      if (answered === undefined) return;
      const { status = 200, headers: sent = {}, body = '' } = answered;
      response.writeHead(status, sent).end(typeof body === 'string' ? body : JSON.stringify(body));
    })();
  });
  server.on('connection', () => (connections += 1));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  stack.defer(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const at = (server.address() as AddressInfo).port;
  const silent = (): void => undefined;
  const context = {
    log: { debug: silent, info: silent, warn: silent, error: silent },
    name: 'mail',
    scopes,
  };
  const store: Store = stack.use(
    await http.open(
      http.options.parse({
        url: `http://127.0.0.1:${at}/hook?tenant=4`,
        secret: SECRET,
        allow_private: true,
        ...options,
      }),
      context,
    ),
  );
  return {
    store,
    asked,
    port: at,
    get connections() {
      return connections;
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const applied = ({ body }: Request): Answer => ({
  body: { outcomes: itemsOf(body).map(() => ({ kind: 'applied' })) },
});
const itemsOf = (body: string) => (JSON.parse(body) as { items: { key: string }[] }).items;
const keysOf = ({ headers }: Request): { kind: string; key: string }[] =>
  JSON.parse(Buffer.from(headers['abide-keys'] as string, 'base64url').toString()) as ReturnType<
    typeof keysOf
  >;
/** Holds everybody under their own key as a scope, so that a mixed-up answer shows. */
const held = (request: Request): Answer => ({
  body: { held: keysOf(request).map(({ key }) => ({ version: 1, suppressed: [key] })) },
});

describe('a request', () => {
  test('is signed as Standard Webhooks has it', () => {
    // The reference vector of the standard's own libraries.
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    expect(sign(secret, 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1_614_265_330, '{"test": 2432232314}')).toEqual({
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    });
  });

  test('is signed over what it carries: the body of a POST, the abide-keys of a GET', async () => {
    await using f = await given((request) => (request.method === 'POST' ? applied : held)(request));
    await f.store.apply([optOut('ada@example.com')], signal());
    await f.store.readBack([email('ada@example.com')], signal());

    const ids = f.asked.map(({ headers }) => headers['webhook-id']);
    expect(new Set(ids).size).toBe(2);
    for (const { headers, body, method } of f.asked) {
      const payload = method === 'POST' ? body : headers['abide-keys'];
      const id = headers['webhook-id'] as string;
      const at = headers['webhook-timestamp'] as string;
      expect(Math.abs(Date.now() / 1_000 - Number(at))).toBeLessThan(60);
      const mac = createHmac('sha256', SECRET)
        .update(`${id}.${at}.${String(payload)}`)
        .digest('base64');
      expect(headers['webhook-signature']).toBe(`v1,${mac}`);
    }
  });

  test('never has a key in its URL, and no cache can answer a GET', async () => {
    await using f = await given((request) => (request.method === 'POST' ? applied : held)(request));
    await f.store.apply([optOut('ada@example.com')], signal());
    await f.store.readBack([email('ada@example.com')], signal());
    await f.store.readBack([email('ada@example.com')], signal());

    const urls = f.asked.map(({ url }) => url);
    expect(urls[0]).toBe('/hook?tenant=4');
    expect(urls[1]).toMatch(/^\/hook\?tenant=4&read=msg_[0-9a-f-]{36}$/);
    expect(new Set(urls).size).toBe(3);
    expect(f.asked[1]!.headers['cache-control']).toBe('no-store');
  });

  test('carries a decision, with what the configuration says of its scopes', async () => {
    const scopes = new Map<string, unknown>([
      ['email', { list: 42 }],
      ['email/offers', { list: 43 }],
      ['sms', undefined],
    ]);
    await using f = await given(applied, {}, scopes);
    const { seq, version, subject, key, effectiveAt, lane } = optOut('ada@example.com');
    const suppressed = { 'email/offers': SINCE, sms: SINCE };
    const granted = { 'email/newsletter': { at: SINCE, version: 3 } };
    const decision = new Item({ seq, version, subject, key, suppressed, granted, effectiveAt, lane });
    await f.store.apply([decision, optOut('grace@example.com', ['analytics'])], signal());

    expect(f.asked[0]!.headers['content-type']).toBe('application/json');
    expect(itemsOf(f.asked[0]!.body)).toEqual([
      {
        seq: 7,
        version: 3,
        kind: 'email',
        key: 'ada@example.com',
        suppressed,
        granted,
        effective_at: SINCE,
        lane: 'live',
        scopes: { 'email/offers': { list: 43 }, 'email/newsletter': { list: 42 } },
      },
      {
        seq: 7,
        version: 3,
        kind: 'email',
        key: 'grace@example.com',
        suppressed: { analytics: SINCE },
        granted: {},
        effective_at: SINCE,
        lane: 'live',
      },
    ]);
  });

  test('for many keys is several, of which no header is too large, and the answers are put in order', async () => {
    await using f = await given(held);
    const keys = Array.from({ length: 400 }, (_, n) => email(`${'é'.repeat(n % 90)}${n}@example.com`));
    const states = await f.store.readBack(keys, signal());
    expect(states).toEqual(keys.map(({ key }) => ({ version: 1, suppressed: [key] })));
    expect(f.asked.length).toBeGreaterThan(1);
    for (const { headers } of f.asked) expect(String(headers['abide-keys']).length).toBeLessThan(6_200);
  });
});

describe('an answer', () => {
  const failureOf = (promise: Promise<unknown>): Promise<Error & { code?: string; delayMs?: number }> =>
    promise.then(
      () => {
        throw new Error('The call succeeded.');
      },
      (error: unknown) => error as Error,
    );
  const both = async (answer: (request: Request) => Answer) => {
    await using f = await given(answer);
    return [
      await failureOf(f.store.apply([optOut('ada@example.com'), optOut('grace@example.com')], signal())),
      await failureOf(f.store.readBack([email('ada@example.com')], signal())),
    ];
  };

  test.each([
    [429, '7', 7_000],
    [429, undefined, 1_000],
    [503, '30', 30_000],
    [503, '86400', 900_000],
    // A store that asks to be left alone is left alone, even if its clock is behind ours.
    [429, '0', 1_000],
    [503, 'Tue, 24 Nov 2026 08:00:00 GMT', 1_000],
  ])('%i with Retry-After %s asks to come again later', async (status, retryAfter, delayMs) => {
    const headers: Record<string, string> = retryAfter === undefined ? {} : { 'retry-after': retryAfter };
    for (const error of await both(() => ({ status, headers }))) {
      expect(error).toMatchObject({ name: 'TryLater', delayMs });
    }
  });

  test('of Retry-After may be a date, and is never before now', () => {
    const now = Date.parse('2026-11-24T09:00:00Z');
    expect(retryAfterMs('Tue, 24 Nov 2026 09:00:05 GMT', now)).toBe(5_000);
    expect(retryAfterMs('Tue, 24 Nov 2026 08:00:00 GMT', now)).toBe(0);
    expect(retryAfterMs('soon', now)).toBeUndefined();
    expect(retryAfterMs(undefined, now)).toBeUndefined();
  });

  test.each([500, 502, 503, 401, 403, 404, 408, 204, 201])(
    '%i is a failure of the call, and refuses no item',
    async (status) => {
      for (const error of await both(() => ({ status }))) {
        expect(error).toMatchObject({ code: 'STORE_FAILED', message: `The store answered ${status}.` });
      }
    },
  );

  test('that refuses a whole batch is asked again by halves, until the bad item is found', async () => {
    await using f = await given((request) =>
      itemsOf(request.body).some(({ key }) => key.startsWith('bad')) ? { status: 422 } : applied(request),
    );
    const batch = Array.from({ length: 100 }, (_, n) =>
      optOut(`${n === 37 ? 'bad' : 'good'}${n}@example.com`),
    );

    const outcomes = await f.store.apply(batch, signal());

    expect(outcomes).toEqual(
      batch.map((_, n) => (n === 37 ? { kind: 'refused', code: 'HTTP_422' } : { kind: 'applied' })),
    );
    expect(f.asked.length).toBeLessThan(20);
  });

  test.each([
    ['is not JSON', '<html>', 'The store did not answer with JSON.'],
    ['has another form', { ok: true }, 'The answer does not have the form in docs/http-connector.md.'],
    [
      'has an outcome that does not exist',
      { outcomes: [{ kind: 'applied' }, { kind: 'done' }], held: [{ version: -1, suppressed: [] }] },
      'The answer does not have the form in docs/http-connector.md.',
    ],
    [
      'names fewer items',
      { outcomes: [{ kind: 'applied' }], held: [] },
      expect.stringMatching(/^The store answered (1 outcomes for 2 items|0 states for 1 keys)\.$/),
    ],
    [
      'names more items',
      { outcomes: Array(3).fill({ kind: 'applied' }), held: [null, null] },
      expect.stringMatching(/^The store answered (3 outcomes for 2 items|2 states for 1 keys)\.$/),
    ],
    [
      'has a code of another form, or more scopes than a subject can have',
      {
        outcomes: [{ kind: 'applied' }, { kind: 'refused', code: 'no' }],
        held: [{ version: 1, suppressed: Array(1_001).fill('sms') }],
      },
      'The answer does not have the form in docs/http-connector.md.',
    ],
    ['is too large for one or two items', ' '.repeat(130 * 1024 + 1), 'The answer is too large.'],
  ])('that %s is a failure', async (_what, body, message) => {
    for (const error of await both(() => ({ body }))) {
      expect(error).toMatchObject({ code: 'STORE_FAILED', message });
    }
  });

  // A store that answered with 4 MiB of zeros held up the whole process for half a minute, every time, and took 2 GB.
  test.each([
    ['fills the list that is asked for', (zeros: string) => `{"outcomes":[${zeros}],"held":[${zeros}]}`],
    [
      'fills the scopes of one subject',
      (zeros: string) => `{"outcomes":[{"kind":"applied"}],"held":[{"version":1,"suppressed":[${zeros}]}]}`,
    ],
    ['nests as deeply as it can', (zeros: string) => '['.repeat(zeros.length)],
  ])('of 4 MiB that %s is not even looked at', async (_what, bodyOf) => {
    const body = bodyOf(Array(1_000_000).fill(0).join());
    for (const error of await both(() => ({ body })))
      expect(error).toMatchObject({ code: 'STORE_FAILED', message: 'The answer is too large.' });
  });

  test('may be as long as what is asked for needs: all scopes of a subject, with the longest names', async () => {
    const scopes = Array.from({ length: 1_000 }, (_, n) => `email/${'a'.repeat(59)}${1_000 + n}`);
    const body = JSON.stringify({ held: [{ version: 1, suppressed: scopes }] }, null, 4);
    await using f = await given(() => ({ body }));
    expect(await f.store.readBack([email('ada@example.com')], signal())).toEqual([
      { version: 1, suppressed: scopes },
    ]);
  });

  test('that ends in its middle is a failure', async () => {
    await using f = await given((_request, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('{"outcomes":', () => response.destroy());
      return undefined;
    });
    const error = await failureOf(f.store.apply([optOut('ada@example.com')], signal()));
    expect(error).toMatchObject({ code: 'STORE_UNREACHABLE' });
  });

  test('that points elsewhere is not followed: what is signed for one store goes to no other', async () => {
    await using elsewhere = await given(applied);
    const location = `http://127.0.0.1:${elsewhere.port}/`;
    for (const status of [301, 302, 303, 307, 308]) {
      for (const error of await both(() => ({ status, headers: { location } }))) {
        expect(error).toMatchObject({ code: 'STORE_FAILED', message: `The store answered ${status}.` });
      }
    }
    expect(elsewhere.asked).toEqual([]);
  });

  test('of what is held may be nobody, or a state without a version', async () => {
    await using f = await given(() => ({ body: { held: [null, { version: null, suppressed: ['sms'] }] } }));
    expect(await f.store.readBack([email('ada@example.com'), email('grace@example.com')], signal())).toEqual([
      undefined,
      { version: undefined, suppressed: ['sms'] },
    ]);
  });
});

test('a target is host, port, path and query, never a secret', () => {
  const target = (url: string) => http.target(http.options.parse({ url, secret: SECRET }));
  expect(target('https://mail.example.com/hook?tenant=4')).toEqual([
    'mail.example.com',
    '443',
    '/hook?tenant=4',
  ]);
  expect(target('https://mail.example.com:8443')).toEqual(['mail.example.com', '8443', '/']);
});

describe('a URL is refused', () => {
  const faultOf = (url: string, options: object = {}): string | undefined =>
    http.options
      .safeParse({ url, secret: SECRET, ...options })
      .error?.issues.map(({ message }) => message)
      .join();

  test.each([
    'http://mail.example.com/',
    'HTTP://mail.example.com/',
    'Http:mail.example.com',
    '\thttp://mail.example.com',
  ])('if addresses would go in plaintext, however it is spelled: %j', (url) => {
    expect(faultOf(url)).toMatch('https://');
  });

  test('if it has what would not be sent', () => {
    const isPrivate = { allow_private: true };
    for (const url of ['https://ada:secret@mail.example.com/', 'https://token@mail.example.com/'])
      expect(faultOf(url, isPrivate)).toMatch(
        'must have no user and no password: the store knows Abide by the signature',
      );
    expect(faultOf('https://mail.example.com/hook?tenant=4&read=1', isPrivate)).toMatch(
      'must have no read in its query',
    );
    expect(faultOf('https://mail.example.com/hook?tenant=4&thread=1')).toBeUndefined();
  });
});
