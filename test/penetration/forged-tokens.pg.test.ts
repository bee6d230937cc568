// Forged tokens: what is known to have gone wrong with JSON Web Tokens elsewhere (RFC 8725), tried against a real issuer's keys.
// What is accepted is up to the configuration; nothing that a token says of itself is followed.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { base64url, exportJWK, exportPKCS8, exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose';
import { KEY_SCOPES } from '../../ledger/contract/api-keys.ts';
import { createSend, problemOf } from '../harness/http.ts';
import type { Send } from '../harness/http.ts';
import { AUDIENCE, makeKey, SCOPES, startIssuer } from '../harness/issuer.ts';
import type { Issuer, Key } from '../harness/issuer.ts';
import { serveLedger } from '../harness/served-ledger.ts';
import type { ServedLedger } from '../harness/served-ledger.ts';
import { countRows } from './unchanged.ts';

let issuer: Issuer;
let api: ServedLedger;
let send: Send;
/** The attacker's key, under the issuer's own key id, and a place where the attacker publishes it. */
let own: Key;
/** The clock that says when the issuer may be asked again, and how far it goes with each look at it: so far that it always may. */
let nowMs = 0;
let stepMs = 5_001;
let evil: { readonly url: string; asked: number; close(): void };

beforeAll(async () => {
  issuer = await startIssuer();
  const tokenOf = issuer.authenticator({ now: () => (nowMs += stepMs) });
  api = await serveLedger({
    authenticate: async (token) => (await api.t.ledger.authenticate(token)) ?? (await tokenOf(token)),
  });
  await api.t.register({ name: 'crm' }, { name: 'other' });
  send = createSend(api.url);
  own = await makeKey('one');
  const server = createServer((_, response) => {
    evil.asked += 1;
    response.setHeader('Content-Type', 'application/json').end(JSON.stringify({ keys: [own.jwk] }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  evil = { url, asked: 0, close: () => server.close().closeAllConnections() };
});
afterAll(async () => {
  evil.close();
  await api[Symbol.asyncDispose]();
  await issuer[Symbol.asyncDispose]();
});

const ALL_BUT_DATE = [
  'clearImmediate',
  'clearInterval',
  'clearTimeout',
  'hrtime',
  'nextTick',
  'performance',
  'queueMicrotask',
  'setImmediate',
  'setInterval',
  'setTimeout',
] as const;

const status = async (token: string): Promise<number> =>
  (await send('GET', '/v1/propagation-lag', { key: token })).status;

/** The parts of a token exactly as given, even if an honest library would refuse to write them. */
const raw = (header: unknown, claims: unknown, signature = ''): string =>
  `${base64url.encode(JSON.stringify(header))}.${base64url.encode(JSON.stringify(claims))}.${signature}`;
const claims = (): object => {
  const now = Math.floor(Date.now() / 1000);
  return { client_id: 'shop', scope: SCOPES, iss: issuer.url, aud: AUDIENCE, iat: now, exp: now + 300 };
};
const good = (): Promise<string> => issuer.forge().sign(issuer.key.privateKey);

/** A token whose header or claims were changed after it was signed. */
async function altered(part: 0 | 1, change: object): Promise<string> {
  const parts = (await good()).split('.');
  const value = JSON.parse(Buffer.from(parts[part]!, 'base64url').toString()) as object;
  parts[part] = base64url.encode(JSON.stringify({ ...value, ...change }));
  return parts.join('.');
}

test('what is forged as it should be is taken, or these tests would show nothing', async () => {
  expect(await status(await good())).toBe(200);
  expect(await status(await issuer.tokenFor(SCOPES))).toBe(200);
});

const FORGED: Record<string, () => Promise<string>> = {
  'signed by another key': () => issuer.forge().sign(own.privateKey),
  'of no algorithm': () => Promise.resolve(new UnsecuredJWT({ ...claims() }).encode()),
  'of no algorithm, spelt otherwise': () =>
    Promise.resolve(raw({ alg: 'nOnE', typ: 'at+jwt', kid: 'one' }, claims())),
  'of no algorithm, with the signature of a good one': async () =>
    raw({ alg: 'none', typ: 'at+jwt', kid: 'one' }, claims(), (await good()).split('.')[2]),
  'without an algorithm': () => Promise.resolve(raw({ typ: 'at+jwt', kid: 'one' }, claims())),
  'without a signature': async () => (await good()).replace(/[^.]+$/, ''),
  'whose algorithm was changed': () => altered(0, { alg: 'ES384' }),
  'whose scope was widened': () => altered(1, { scope: KEY_SCOPES.join(' ') }),
  'signed with the public key as a shared secret (PEM)': async () =>
    issuer.forge({ alg: 'HS256' }).sign(new TextEncoder().encode(await exportSPKI(issuer.key.publicKey))),
  'signed with the public key as a shared secret (JWK)': async () =>
    issuer
      .forge({ alg: 'HS256' })
      .sign(new TextEncoder().encode(JSON.stringify(await exportJWK(issuer.key.publicKey)))),
  'signed with an empty secret': () =>
    Promise.resolve(raw({ alg: 'HS256', typ: 'at+jwt', kid: 'one' }, claims(), 'AAAA')),
  'signed by RSA, which is not configured': async () =>
    issuer.forge({ alg: 'RS256' }).sign((await generateKeyPair('RS256')).privateKey),
  'of a signature of zeroes (psychic)': () =>
    Promise.resolve(
      raw({ alg: 'ES256', typ: 'at+jwt', kid: 'one' }, claims(), base64url.encode(new Uint8Array(64))),
    ),
  'of a signature in DER': async () => {
    const parts = (await good()).split('.');
    return [
      parts[0],
      parts[1],
      base64url.encode(Buffer.concat([Buffer.from('30440220', 'hex'), Buffer.from(parts[2]!, 'base64url')])),
    ].join('.');
  },
  'that brings its key along (jwk)': async () =>
    issuer.forge({ kid: undefined, jwk: await exportJWK(own.publicKey) }).sign(own.privateKey),
  'that brings its key along under the known id': async () =>
    issuer.forge({ jwk: await exportJWK(own.publicKey) }).sign(own.privateKey),
  'that says where its keys are (jku)': () => issuer.forge({ jku: `${evil.url}/jwks` }).sign(own.privateKey),
  'that says where its certificate is (x5u)': () =>
    issuer.forge({ x5u: `${evil.url}/x5u` }).sign(own.privateKey),
  'that brings a certificate along (x5c)': async () =>
    issuer
      .forge({ x5c: [Buffer.from(await exportPKCS8(own.privateKey)).toString('base64')] })
      .sign(own.privateKey),
  'whose issuer is where its keys are': () => issuer.forge({}, { iss: evil.url }).sign(own.privateKey),
  'with a path for a key id': () => issuer.forge({ kid: '../../../../dev/null' }).sign(own.privateKey),
  'with a URL for a key id': () => issuer.forge({ kid: `${evil.url}/jwks` }).sign(own.privateKey),
  'with SQL for a key id': () => issuer.forge({ kid: "x' union select 'secret" }).sign(own.privateKey),
  'with a command for a key id': () => issuer.forge({ kid: '| cat /etc/passwd' }).sign(own.privateKey),
  'with what every object has for a key id': () => issuer.forge({ kid: '__proto__' }).sign(own.privateKey),
  'with an object for a key id': () =>
    Promise.resolve(raw({ alg: 'ES256', typ: 'at+jwt', kid: { a: 1 } }, claims(), 'AAAA')),
  'that asks for what nobody understands (crit)': () =>
    Promise.resolve(raw({ alg: 'ES256', typ: 'at+jwt', kid: 'one', crit: ['exp'] }, claims(), 'AAAA')),
  'whose payload is not encoded (b64)': () =>
    Promise.resolve(
      raw({ alg: 'ES256', typ: 'at+jwt', kid: 'one', b64: false, crit: ['b64'] }, claims(), 'AAAA'),
    ),
  'of another type: an ID token': () => issuer.forge({ typ: 'JWT' }).sign(issuer.key.privateKey),
  'of no type': () => issuer.forge({ typ: '' }).sign(issuer.key.privateKey),
  over: () => issuer.forge().setExpirationTime('-1h').sign(issuer.key.privateKey),
  'that is never over': () =>
    new SignJWT({ client_id: 'shop', scope: SCOPES, iss: issuer.url, aud: AUDIENCE })
      .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: 'one' })
      .setIssuedAt()
      .sign(issuer.key.privateKey),
  'that has just been over': () => issuer.forge().setExpirationTime('-31s').sign(issuer.key.privateKey),
  // Correctly signed, but with a time that no date can hold. The issuer's keys were blamed for it: 503, for ever.
  'that is over in three million years': () =>
    issuer.forge().setExpirationTime(99_999_999_999_999).sign(issuer.key.privateKey),
  'issued three million years ago': () =>
    issuer.forge().setIssuedAt(-99_999_999_999_999).sign(issuer.key.privateKey),
  'issued in three million years': () =>
    issuer.forge().setIssuedAt(99_999_999_999_999).sign(issuer.key.privateKey),
  'issued tomorrow': () => issuer.forge().setIssuedAt('1d').sign(issuer.key.privateKey),
  'not yet': () => issuer.forge().setNotBefore('1h').sign(issuer.key.privateKey),
  'by another issuer': () => issuer.forge({}, { iss: 'https://evil.test' }).sign(issuer.key.privateKey),
  'by an issuer whose name goes on': () =>
    issuer.forge({}, { iss: `${issuer.url}.evil.test` }).sign(issuer.key.privateKey),
  'for another audience': () => issuer.forge({}, { aud: 'https://other.test' }).sign(issuer.key.privateKey),
  'for an audience whose name goes on': () =>
    issuer.forge({}, { aud: `${AUDIENCE}.evil.test` }).sign(issuer.key.privateKey),
  'for nobody': () => issuer.forge({}, { aud: [] }).sign(issuer.key.privateKey),
  "of the issuer's own for another audience": () => issuer.tokenFor(SCOPES, 'https://other.test'),
  'without a client': () => issuer.forge({}, { client_id: undefined }).sign(issuer.key.privateKey),
  'with a client that is no name': () => issuer.forge({}, { client_id: 'a b\n' }).sign(issuer.key.privateKey),
  'with a client that is no text': () =>
    issuer.forge({}, { client_id: { toString: 'shop' } }).sign(issuer.key.privateKey),
  'with no claims at all': () =>
    Promise.resolve(raw({ alg: 'ES256', typ: 'at+jwt', kid: 'one' }, 'claims', 'AAAA')),
  'cut short': async () => (await good()).slice(0, -4),
  'with a part more': async () => `${await good()}.AAAA`,
  'sealed instead of signed (JWE)': async () => `${await good()}.AAAA.AAAA`,
  'of three empty parts': () => Promise.resolve('..'),
};

describe('is nobody', () => {
  test.each(Object.keys(FORGED))('a token %s', async (name) => {
    const before = await countRows(api.t);
    const token = await FORGED[name]!();
    const answers = [
      await send('GET', '/v1/propagation-lag', { key: token }),
      await send('POST', '/v1/opt-outs', { key: token, body: { subject: { email: 'ada@example.com' } } }),
    ];
    for (const answer of answers) expect(problemOf(answer)).toEqual([401, 'unauthenticated']);
    expect(await countRows(api.t)).toEqual(before);
  });

  test('and nobody was asked for keys but the issuer of the configuration, at its own address', () => {
    expect(evil.asked).toBe(0);
    expect(new Set(issuer.asked.filter((path) => path !== '/token'))).toEqual(new Set(['/jwks']));
  });
});

test('a good token is not good for longer because it was good a moment ago', async () => {
  // The time of day stands still but for the test, however long a call takes.
  jest.useFakeTimers({ doNotFake: [...ALL_BUT_DATE] });
  try {
    const short = await issuer.forge().setExpirationTime('-28s').sign(issuer.key.privateKey);
    expect(await status(short)).toBe(200);
    // Now it is beyond the clocks' tolerance of 30 seconds.
    jest.setSystemTime(Date.now() + 3_000);
    expect(await status(short)).toBe(401);
  } finally {
    jest.useRealTimers();
  }
});

describe('a token gives what its scopes say and nothing else', () => {
  test('whatever they are called', async () => {
    for (const scope of [
      '',
      'admin',
      '*',
      'opt_outs:*',
      'LAG:READ',
      'lag:read,opt_outs:read',
      '__proto__',
      'constructor toString hasOwnProperty',
    ])
      expect([scope, await status(await issuer.forge({}, { scope }).sign(issuer.key.privateKey))]).toEqual([
        scope,
        403,
      ]);
    for (const scope of [['lag:read'], { 'lag:read': true }, 7, null])
      expect(await status(await issuer.forge({}, { scope }).sign(issuer.key.privateKey))).toBe(403);
  });

  test('a store that it names gives nothing without the scope, and with it that store alone', async () => {
    const worker = await issuer
      .forge({}, { scope: 'acknowledgements:write', store: 'crm' })
      .sign(issuer.key.privateKey);
    const outstanding = async (key: string, store: string) =>
      (await send('GET', `/v1/stores/${store}/outstanding`, { key })).status;
    expect([await outstanding(worker, 'crm'), await outstanding(worker, 'other')]).toEqual([200, 404]);
    // Seen: PostgreSQL's text has no NUL, and a query for a store of such a name failed: 500.
    const other = await issuer
      .forge({}, { scope: 'acknowledgements:write', store: 'crm\0' })
      .sign(issuer.key.privateKey);
    expect(await outstanding(other, 'crm%00')).toBe(404);
    const reader = await issuer.forge({}, { scope: 'lag:read', store: 'crm' }).sign(issuer.key.privateKey);
    expect(await outstanding(reader, 'crm')).toBe(403);
  });

  test("a client's name in it is never an API key's client", async () => {
    const { token: key } = await api.t.ledger.createKey({
      client: 'shop',
      scopes: ['opt_outs:write', 'opt_outs:read'],
      store: undefined,
      expiresAt: undefined,
      caller: undefined,
    });
    const made = await send('POST', '/v1/opt-outs', { key, body: { subject: { email: 'own@example.com' } } });
    for (const client of ['shop', 'login:shop', ':shop'])
      expect(
        problemOf(
          await send('GET', made.headers.location!, {
            key: await issuer.forge({}, { client_id: client }).sign(issuer.key.privateKey),
          }),
        ),
      ).toEqual([404, 'not-found']);
  });
});

test('a flood of unknown key ids does not become a flood to the issuer', async () => {
  expect(await status(await issuer.tokenFor(SCOPES))).toBe(200);
  const tokens = await Promise.all(
    Array.from({ length: 200 }, (_, n) => issuer.forge({ kid: `unknown-${n}` }).sign(own.privateKey)),
  );
  stepMs = 0.001;
  nowMs += 5_000;
  const before = issuer.asked.length;
  // Whether the issuer has such a key can be told by those that come before it is asked; the others may come again.
  const answers = new Set(await Promise.all(tokens.map(status)));
  for (const answer of answers) expect([401, 503]).toContain(answer);
  expect(issuer.asked.length - before).toBeLessThanOrEqual(1);
  expect(await status(await issuer.tokenFor(SCOPES))).toBe(200);
});
