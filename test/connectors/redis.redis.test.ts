import { randomUUID } from 'node:crypto';
import { connect, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createClient } from 'redis';
import { Item } from '../../connectors/contract/connector.ts';
import redis from '../../connectors/redis.ts';
import { Address } from '../../suppression/subject.ts';
import { describeConnector } from '../conformance/connector.ts';

const URL_OF_RUN = process.env['ABIDE_TEST_REDIS'] ?? 'redis://127.0.0.1:6379';
const { hostname, port } = new URL(URL_OF_RUN);
const client = createClient({ url: URL_OF_RUN });
client.on('error', () => undefined);
const PREFIX = `abide-test:${randomUUID()}:`;
const prefixOf = (options: object): string => (options as { prefix: string }).prefix;

beforeAll(() => client.connect());
afterAll(async () => {
  for await (const keys of client.scanIterator({ MATCH: `${PREFIX}*`, COUNT: 5_000 })) {
    if (keys.length > 0) await client.unlink(keys);
  }
  await client.close();
});

const place = () =>
  Promise.resolve({
    options: { url: URL_OF_RUN, prefix: `${PREFIX}${randomUUID()}[*]:` },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  });

describeConnector('redis', {
  connector: redis,
  open: place,
  line: {
    host: hostname,
    port: Number(port === '' ? 6379 : port),
    through: (options, proxyPort) => ({
      ...options,
      url: Object.assign(new URL(URL_OF_RUN), { host: `127.0.0.1:${proxyPort}` }).href,
    }),
  },
  byItself: async ({ options }, { kind, key }, scope, isSuppressed) => {
    await client.hSet(`${prefixOf(options)}${kind}:${key}`, scope, isSuppressed ? 'suppressed' : 'granted');
  },
  badKey: async ({ options }) => {
    await client.set(`${prefixOf(options)}email:not-a-hash`, 'somebody else put this here');
    return 'not-a-hash';
  },
});

const signal = (): AbortSignal => AbortSignal.timeout(10_000);
const silent = (): void => undefined;
const context = {
  log: { debug: silent, info: silent, warn: silent, error: silent },
  name: 'redis',
  scopes: new Map(),
};
const optOut = (key: string): Item =>
  new Item({
    seq: 1,
    version: 1,
    subject: { kind: 'email', value: new Address(key) },
    key,
    suppressed: { email: '2026-11-24T09:00:00.000Z' },
    granted: {},
    effectiveAt: '2026-11-24T09:00:00.000Z',
    lane: 'live',
  });

test('a sender finds the suppression by the key in one command', async () => {
  await using here = await place();
  await using store = await redis.open(redis.options.parse(here.options), context);
  await store.apply([optOut('ada@example.com')], signal());
  expect(await client.hGet(`${here.options.prefix}email:ada@example.com`, 'email')).toBe('suppressed');
});

test('a key that somebody made something else of suppresses nobody, and the others are read beside it', async () => {
  await using here = await place();
  await using store = await redis.open(redis.options.parse(here.options), context);
  const people = ['ada@example.com', 'grace@example.com'].map(optOut);
  await store.apply(people, signal());
  await client.set(`${here.options.prefix}email:ada@example.com`, 'a string');
  const keys = people.map(({ key }) => ({ kind: 'email', key }) as const);
  expect(await store.readBack(keys, signal())).toEqual([undefined, { version: 1, suppressed: ['email'] }]);
});

test('Redis forgets its scripts, and the next opt-out is applied all the same', async () => {
  await using here = await place();
  await using store = await redis.open(redis.options.parse(here.options), context);
  await client.scriptFlush();
  expect(await store.apply([optOut('ada@example.com'), optOut('grace@example.com')], signal())).toEqual([
    { kind: 'applied' },
    { kind: 'applied' },
  ]);
});

test('it opens while Redis is away, fails at once and says so once', async () => {
  const warned: object[] = [];
  const log = { ...context.log, warn: (fields: object) => void warned.push(fields) };
  const options = redis.options.parse({ url: 'redis://127.0.0.1:1' });
  await using store = await redis.open(options, { ...context, log });
  for (let n = 0; n < 3; n += 1) {
    await expect(store.apply([optOut('ada@example.com')], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
    });
  }
  expect(warned).toEqual([{ code: 'ECONNREFUSED' }, { code: 'ECONNREFUSED' }]);
});

// All of these used to say `The connection to Redis failed.`, without a code.
test.each([
  ['redis://127.0.0.1:1', 'The connection to Redis failed: nothing listens there (ECONNREFUSED).'],
  ['redis://nowhere.invalid', 'The connection to Redis failed: there is no such host (ENOTFOUND).'],
  [
    Object.assign(new URL(URL_OF_RUN), { username: 'nobody', password: 'hunter2' }).href,
    'Redis answered WRONGPASS: the user or password is wrong.',
  ],
  [Object.assign(new URL(URL_OF_RUN), { pathname: '/123456' }).href, 'Redis answered ERR: no such database.'],
])('of %s it says why it is unreachable', async (url, message) => {
  await using store = await redis.open(redis.options.parse({ url }), context);
  await expect(store.readBack([{ kind: 'email', key: 'ada@example.com' }], signal())).rejects.toMatchObject({
    code: 'STORE_UNREACHABLE',
    message,
  });
});

test('a Redis that throws keys away when its memory is full is refused by the check, which says what to set', async () => {
  // Only what it says of itself is changed, since others use this Redis as well.
  const changed = (chunk: Buffer): string =>
    chunk
      .toString('latin1')
      .replace(/\bmaxmemory:\d+/, (text) => text.replace(/\d/g, '9'))
      .replace(/(?<=maxmemory_policy:)\S+/, (policy) => 'allkeys-'.padEnd(policy.length, 'x'));
  const between = createServer((socket) => {
    const server = connect({ host: hostname, port: Number(port === '' ? 6379 : port) });
    socket.on('error', () => server.destroy()).pipe(server);
    server.on('data', (chunk: Buffer) => socket.write(changed(chunk), 'latin1'));
    server.on('error', () => socket.destroy()).on('close', () => socket.destroy());
  });
  const { port: itsPort } = await new Promise<AddressInfo>((resolve) => {
    between.listen(0, '127.0.0.1', () => {
      resolve(between.address() as AddressInfo);
    });
  });
  try {
    await using here = await place();
    await using itself = await redis.open(redis.options.parse(here.options), context);
    await itself.check!([optOut('ada@example.com')], signal());
    const url = Object.assign(new URL(URL_OF_RUN), { host: `127.0.0.1:${itsPort}` }).href;
    await using store = await redis.open(redis.options.parse({ ...here.options, url }), context);
    await expect(store.check!([optOut('ada@example.com')], signal())).rejects.toThrow(
      /memory is full \(maxmemory-policy allkeys-x+\).* Set noeviction/,
    );
  } finally {
    between.close();
  }
});

test('a Redis that asks for a password which is not given is unreachable, and says so', async () => {
  const asks = createServer((socket) =>
    socket.on('data', () => socket.write('-NOAUTH Authentication required.\r\n')),
  );
  const { port: itsPort } = await new Promise<AddressInfo>((resolve) => {
    asks.listen(0, '127.0.0.1', () => {
      resolve(asks.address() as AddressInfo);
    });
  });
  try {
    await using store = await redis.open(
      redis.options.parse({ url: `redis://127.0.0.1:${itsPort}` }),
      context,
    );
    await expect(store.readBack([], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: 'Redis answered NOAUTH: the user or password is wrong.',
      cause: { code: 'NOAUTH' },
    });
  } finally {
    asks.close();
  }
});

test('a target is host, port, database and prefix, never a password', () => {
  const target = (url: string) => redis.target(redis.options.parse({ url }));
  expect(target('redis://user:secret@cache.internal/2')).toEqual([
    'cache.internal',
    '6379',
    '2',
    'suppressed:',
  ]);
  expect(target('redis://cache.internal')).toEqual(['cache.internal', '6379', '0', 'suppressed:']);
});

test('a path that is no database number is a fault of the file', () => {
  const messages = (url: string) =>
    redis.options.safeParse({ url }).error?.issues.map(({ message }) => message);
  expect(messages('redis://127.0.0.1/abc')).toEqual(["must have a database's number as its path, or none"]);
  expect(messages('http://127.0.0.1')).toEqual(['must be a redis:// or rediss:// URL']);
  for (const path of ['', '/', '/9']) expect(messages(`redis://127.0.0.1${path}`)).toBeUndefined();
});
