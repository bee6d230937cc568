// The keys of issuers as they are out there: without ids, late, away, broken. Behind the API's own door, over a ledger that only
// answers.
import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterEach, expect, test } from '@jest/globals';
import { SignJWT } from 'jose';
import type { JWK } from 'jose';
import { createTokenAuthenticator } from '../../../api/guard/access-token.ts';
import { checkIssuers } from '../../../api/guard/issuer-keys.ts';
import { DEFAULT_LIMITS } from '../../../config/configuration.ts';
import type { TokenIssuer } from '../../../config/configuration.ts';
import { eventually } from '../../harness/eventually.ts';
import { problemOf } from '../../harness/http.ts';
import { makeKey } from '../../harness/issuer.ts';
import type { Key } from '../../harness/issuer.ts';
import { ROOMS } from '../../../api/guard/rooms.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { KEYS } from '../stub-ledger.ts';

const opened: AsyncDisposable[] = [];
afterEach(async () => {
  logged.length = 0;
  for (const one of opened.splice(0)) await one[Symbol.asyncDispose]();
});

type KeyServer = AsyncDisposable & {
  readonly url: string;
  asked: number;
  answer: (response: ServerResponse) => void;
};

const publishing =
  (...keys: readonly JWK[]): KeyServer['answer'] =>
  (response) =>
    void response.setHeader('Content-Type', 'application/json').end(JSON.stringify({ keys }));

async function serveKeys(answer: KeyServer['answer']): Promise<KeyServer> {
  const server = createServer((_, response) => {
    served.asked += 1;
    served.answer(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const served: KeyServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks`,
    asked: 0,
    answer,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  opened.push(served);
  return served;
}

const logged: object[] = [];
const log = { warn: (fields: object): void => void logged.push(fields) };

const ISSUER = 'https://login.test';
const AUDIENCE = 'https://abide.test';

const issuerOf = (keys: KeyServer, instead: Partial<TokenIssuer> = {}): TokenIssuer => ({
  name: 'login',
  issuer: ISSUER,
  audience: AUDIENCE,
  jwks: keys.url,
  algorithms: ['ES256'],
  scopes: undefined,
  ...instead,
});

/** As issuers publish it: without the private half, and with the id that this one gives it, if any. */
const publicOf = ({ jwk: { d: _, kid: __, ...jwk } }: Key, kid?: string): JWK =>
  kid === undefined ? jwk : { ...jwk, kid };

const tokenOf = (
  { privateKey }: Key,
  { kid, ...claims }: { kid?: string | undefined; iss?: string; aud?: string | string[] } = {},
): Promise<string> =>
  new SignJWT({ client_id: 'shop', scope: 'lag:read', iss: ISSUER, aud: AUDIENCE, ...claims })
    .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', ...(kid === undefined ? {} : { kid }) })
    .setIssuedAt()
    .setExpirationTime('5m')
    .sign(privateKey);

// All of an issuer's tokens were refused while it changed from one key to the next.
test.each([
  ['no id', undefined],
  ['the same id', 'same'],
])('of several keys with %s, the one that signed a token is found', async (_, kid) => {
  const made = await Promise.all(['a', 'b', 'c'].map(makeKey));
  const [before, now, other] = made as [Key, Key, Key];
  const keys = await serveKeys(publishing(publicOf(before, kid), publicOf(now, kid)));
  let nowMs = 0;
  const authenticate = createTokenAuthenticator([issuerOf(keys)], { log, now: () => (nowMs += 5_001) });

  for (const signer of [before, now])
    expect(await authenticate(await tokenOf(signer, { kid }))).toMatchObject({ client: 'login:shop' });
  expect(await authenticate(await tokenOf(other, { kid }))).toBeUndefined();
  expect(await authenticate(await tokenOf(now, { kid, aud: 'https://other.test' }))).toBeUndefined();
});

test('an issuer that hangs is asked only for its own tokens, and delays no other one', async () => {
  const key = await makeKey('one');
  const hanging = await serveKeys(() => undefined);
  const keys = await serveKeys(publishing(publicOf(key, 'one')));
  const authenticate = createTokenAuthenticator(
    [
      issuerOf(hanging, { name: 'hanging', issuer: 'https://hanging.test' }),
      issuerOf(keys),
      issuerOf(keys, { name: 'second', audience: 'https://second.test' }),
      issuerOf(hanging, { name: 'third', audience: 'https://third.test' }),
    ],
    { log },
  );
  const clientOf = async (aud: string | string[], iss = ISSUER): Promise<string | undefined> =>
    (await authenticate(await tokenOf(key, { kid: 'one', aud, iss })))?.client;

  expect(await clientOf(AUDIENCE)).toBe('login:shop');
  expect(await clientOf('https://second.test')).toBe('second:shop');
  expect(await clientOf(['https://other.test', 'https://second.test'])).toBe('second:shop');
  expect(await clientOf(AUDIENCE, 'https://nobody.test')).toBeUndefined();
  expect(await clientOf('https://nobody.test')).toBeUndefined();
  expect(await authenticate('e30.bm9uZQ.AAAA')).toBeUndefined();
  expect(hanging.asked).toBe(0);
});

// With an id that stayed, its tokens were refused for good for ten minutes.
test.each([
  ['no id', undefined],
  ['the id of the one before', 'same'],
])('a token of a key with %s may be of one that the issuer has since taken up', async (_, kid) => {
  const [before, next, other] = await Promise.all(['a', 'b', 'c'].map(makeKey));
  const keys = await serveKeys(publishing(publicOf(before!, kid)));
  let nowMs = 0;
  const authenticate = createTokenAuthenticator([issuerOf(keys)], { log, now: () => nowMs });
  expect(await authenticate(await tokenOf(before!, { kid }))).toMatchObject({ client: 'login:shop' });
  keys.answer = publishing(publicOf(next!, kid));
  nowMs += 4_999;
  await expect(authenticate(await tokenOf(next!, { kid }))).rejects.toMatchObject({
    code: 'issuer-unavailable',
    retryAfterSeconds: 1,
  });
  nowMs += 1;

  expect(await authenticate(await tokenOf(next!, { kid }))).toMatchObject({ client: 'login:shop' });
  nowMs += 5_000;
  expect(await authenticate(await tokenOf(other!, { kid }))).toBeUndefined();
  expect(keys.asked).toBe(3);
});

// An empty list took the place of the good keys; a key that was broken once was not looked at again for ten minutes.
test('an issuer that gives out no key, or a broken one, is asked again, and its other keys stay', async () => {
  const [first, second] = (await Promise.all(['one', 'two'].map(makeKey))) as [Key, Key];
  const keys = await serveKeys(publishing(publicOf(first, 'one'), { ...publicOf(second, 'two'), x: 'AA' }));
  let nowMs = 0;
  const authenticate = createTokenAuthenticator([issuerOf(keys)], { log, now: () => nowMs });
  const client = async (key: Key, kid: string): Promise<unknown> =>
    await authenticate(await tokenOf(key, { kid })).then(
      (found) => found?.client,
      (error: unknown) => error,
    );
  expect(await client(first, 'one')).toBe('login:shop');
  const away = { code: 'issuer-unavailable', retryAfterSeconds: 5 };
  expect(await client(second, 'two')).toMatchObject(away);
  keys.answer = publishing();
  nowMs += 5_000;
  expect(await client(second, 'two')).toMatchObject(away);
  expect(await client(first, 'one')).toBe('login:shop');
  keys.answer = publishing(publicOf(first, 'one'), publicOf(second, 'two'));
  nowMs += 5_000;
  expect(await client(second, 'two')).toBe('login:shop');
});

const away: KeyServer['answer'] = (response) => void response.writeHead(500).end();

/** The API as a process serves it: API keys by their names, and the tokens of the issuer. */
async function serveApi(
  keys: KeyServer,
  options: Parameters<typeof serveStub>[1] = {},
  now?: () => number,
): Promise<ServedStub> {
  const authenticate = createTokenAuthenticator([issuerOf(keys)], { log, now });
  const api = await serveStub(
    { authenticate: async (token) => KEYS[token] ?? (await authenticate(token)) },
    options,
  );
  opened.push(api);
  return api;
}
const ask = (api: ServedStub, key: string) => api.send('GET', '/v1/propagation-lag', { key });

// Each made-up token was one more question to an issuer that failed, and none counted as a failed authentication.
test('while an issuer fails, made-up tokens are limited and make nobody ask it, and API keys are let in', async () => {
  const key = await makeKey('one');
  const keys = await serveKeys(away);
  let nowMs = 0;
  const limits = { ...DEFAULT_LIMITS, failedAuthenticationsPerMinute: 5 };
  const api = await serveApi(keys, { limits, now: () => nowMs }, () => nowMs);
  const good = await tokenOf(key, { kid: 'one' });

  for (let n = 0; n < 5; n += 1) {
    const answer = await ask(api, await tokenOf(key, { kid: `made-up-${n}` }));
    expect([...problemOf(answer), answer.headers['retry-after']]).toEqual([503, 'issuer-unavailable', '5']);
  }
  expect(problemOf(await ask(api, good))).toEqual([429, 'too-many-requests']);
  expect(keys.asked).toBe(1);
  expect((await ask(api, 'shop')).status).toBe(200);

  // Whoever is honest has lost nothing by it: the token is good again with the issuer.
  keys.answer = publishing(publicOf(key, 'one'));
  nowMs += 5_000;
  expect((await ask(api, good)).status).toBe(200);
  expect(keys.asked).toBe(2);
});

// They held every place at the door for as long as the issuer took, and API keys were answered 503 overloaded.
test('while an issuer hangs, few wait for it, and one question is for all of them', async () => {
  const key = await makeKey('one');
  const held: ServerResponse[] = [];
  const keys = await serveKeys((response) => void held.push(response));
  const api = await serveApi(keys, { rooms: { ...ROOMS, door: 110 } });
  const madeUp = await Promise.all(
    Array.from({ length: 104 }, (_, n) => tokenOf(key, { kid: `made-up-${n}` })),
  );
  const good = ask(api, await tokenOf(key, { kid: 'one' }));
  await eventually(() => expect(held.length).toBe(1));
  let answered = 0;
  const others = madeUp.map(async (token) => {
    const answer = await ask(api, token);
    answered += 1;
    return problemOf(answer);
  });

  await eventually(() => expect(answered).toBe(5));
  expect((await ask(api, 'shop')).status).toBe(200);
  publishing(publicOf(key, 'one'))(held[0]!);

  expect((await good).status).toBe(200);
  // The issuer was asked before these came, so it may have their keys by now.
  expect(new Set((await Promise.all(others)).map(String))).toEqual(new Set(['503,issuer-unavailable']));
  expect(keys.asked).toBe(1);
});

const said =
  (text: string): KeyServer['answer'] =>
  (response) =>
    void response.end(text);
const zipped =
  (text: string): KeyServer['answer'] =>
  (response) =>
    void response.setHeader('Content-Encoding', 'gzip').end(gzipSync(text));
const broken: readonly (readonly [KeyServer['answer'], string])[] = [
  [away, 'its keys cannot be had: it answers 500'],
  [(response) => void response.destroy(), 'its keys cannot be had: fetch failed (UND_ERR_SOCKET)'],
  [said('<html>'), 'its keys cannot be had: Failed to parse the JSON Web Key Set HTTP response as JSON'],
  [said('{}'), 'its keys cannot be had: JSON Web Key Set malformed'],
  [publishing(), 'its keys cannot be had: it gives out no key'],
  [said('x'.repeat(1024 * 1024 + 1)), 'its keys cannot be had: it answers more than 1048576 bytes'],
  [zipped('x'.repeat(1024 * 1024 + 1)), 'its keys cannot be had: it answers more than 1048576 bytes'],
  [publishing({ kty: 'EC', crv: 'P-256', x: 'AA', y: 'AA' }), 'has no key for ES256 that can be used'],
];

// Doctor and config check found everything fine, and nothing was logged.
test('what is wrong with an issuer is said by those who look, and logged once a minute without the token', async () => {
  const key = await makeKey('one');
  const keys = await serveKeys(away);
  const problem = async (): Promise<string | undefined> => (await checkIssuers([issuerOf(keys)]))[0]!.problem;
  for (const [answer, says] of broken) {
    keys.answer = answer;
    expect(await problem()).toBe(says);
  }
  for (const kid of [undefined, 'same']) {
    keys.answer = publishing(publicOf(key, kid), publicOf(await makeKey('two'), kid));
    expect(await problem()).toBeUndefined();
  }

  keys.answer = away;
  let nowMs = 0;
  const authenticate = createTokenAuthenticator([issuerOf(keys)], { log, now: () => nowMs });
  const token = await tokenOf(key, { kid: 'one' });
  for (; nowMs <= 60_000; nowMs += 5_000) await expect(authenticate(token)).rejects.toThrow();
  expect(logged).toEqual(Array(2).fill({ issuer: 'login', reason: 'it answers 500' }));
  keys.answer = publishing({ ...publicOf(key, 'one'), x: 'AA' });
  nowMs += 60_000;
  await expect(authenticate(token)).rejects.toMatchObject({ code: 'issuer-unavailable' });
  expect(logged).toHaveLength(3);
});
