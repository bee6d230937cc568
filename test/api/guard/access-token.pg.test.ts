// Access tokens of a real issuer (oidc-provider, client credentials), and those that an attacker would make.
import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { exportJWK, exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose';
import type { CryptoKey, JWK } from 'jose';
import Provider from 'oidc-provider';
import { request } from 'undici';
import { createTokenAuthenticator } from '../../../api/guard/access-token.ts';
import { createSend } from '../../harness/http.ts';
import type { Send } from '../../harness/http.ts';
import { serveLedger } from '../../harness/served-ledger.ts';
import type { ServedLedger } from '../../harness/served-ledger.ts';

const AUDIENCE = 'https://abide.test';
const SCOPES = 'opt_outs:write opt_outs:read checks:read lag:read';

type Key = { readonly jwk: JWK; readonly privateKey: CryptoKey; readonly publicKey: CryptoKey };
const makeKey = async (kid: string): Promise<Key> => {
  const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
  return { jwk: { ...(await exportJWK(privateKey)), kid, alg: 'ES256', use: 'sig' }, privateKey, publicKey };
};

/** The issuer, at one address through every change of its keys. */
const front = createServer((incoming, response) => {
  if (incoming.url?.startsWith('/jwks') === true) jwksAsked += 1;
  if (isAway) response.destroy();
  else handler(incoming, response);
});
let handler: RequestListener;
let isAway = false;
let jwksAsked = 0;
let issuer: string;
let key: Key;
let api: ServedLedger;
let send: Send;

function serveIssuer(...keys: readonly Key[]): void {
  const provider = new Provider(issuer, {
    jwks: { keys: keys.map(({ jwk }) => jwk as never) },
    clients: [
      {
        client_id: 'shop',
        client_secret: 'a secret of the shop',
        id_token_signed_response_alg: 'ES256',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    scopes: SCOPES.split(' '),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => AUDIENCE,
        getResourceServerInfo: (_, resource) => ({
          scope: SCOPES,
          audience: resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 300,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  const callback = provider.callback();
  handler = (incoming, response) => void callback(incoming, response);
}

/** As the shop gets one. */
async function tokenFor(scope: string, resource = AUDIENCE): Promise<string> {
  const answer = await request(`${issuer}/token`, {
    method: 'POST',
    headers: {
      'content-type': 'application/x-www-form-urlencoded',
      authorization: `Basic ${Buffer.from(`shop:${encodeURIComponent('a secret of the shop')}`).toString('base64')}`,
    },
    body: new URLSearchParams({ grant_type: 'client_credentials', scope, resource }).toString(),
  });
  const text = await answer.body.text();
  const { access_token: token } = JSON.parse(text) as { access_token?: string };
  if (token === undefined) throw new Error(text);
  expect(token.split('.')).toHaveLength(3);
  return token;
}

/** As an attacker who knows what ours look like makes one. */
const forge = (
  { typ = 'at+jwt', kid = 'one', alg = 'ES256', ...header }: Record<string, unknown> = {},
  claims: Record<string, unknown> = {},
): SignJWT =>
  new SignJWT({
    client_id: 'shop',
    scope: SCOPES,
    iss: issuer,
    aud: AUDIENCE,
    sub: 'shop',
    jti: 'x',
    ...claims,
  })
    .setProtectedHeader({ alg: alg as string, typ: typ as string, kid: kid as string, ...header })
    .setIssuedAt()
    .setExpirationTime('5m');

async function serveApi(): Promise<void> {
  const tokenOf = createTokenAuthenticator([
    {
      name: 'login',
      issuer,
      audience: AUDIENCE,
      jwks: `${issuer}/jwks`,
      algorithms: ['ES256'],
      scopes: undefined,
    },
  ]);
  const authenticate = async (token: string) =>
    (await api.t.ledger.authenticate(token)) ?? (await tokenOf(token));
  const instead = { authenticate };
  api = await serveLedger(instead);
  send = createSend(api.url);
}

beforeAll(async () => {
  // The issuer warns that it is set up for a test.
  jest.spyOn(console, 'warn').mockImplementation(() => undefined);
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
  issuer = `http://127.0.0.1:${(front.address() as AddressInfo).port}`;
  key = await makeKey('one');
  serveIssuer(key);
}, 30_000);
afterAll(() => {
  jest.restoreAllMocks();
  front.close();
  front.closeAllConnections();
});
beforeEach(async () => {
  isAway = false;
  serveIssuer(key);
  await serveApi();
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const status = async (token: string): Promise<number> =>
  (await send('GET', '/v1/propagation-lag', { key: token })).status;

describe('a token of the issuer', () => {
  test('does what its scopes say, as a client of its own, and is audited', async () => {
    const token = await tokenFor(SCOPES);
    const made = await send('POST', '/v1/opt-outs', {
      key: token,
      body: { subject: { email: 'ada@example.com' } },
    });
    expect(made.status).toBe(201);
    expect((await send('GET', `/v1/opt-outs/${made.json.id}`, { key: token })).status).toBe(200);
    expect(await api.t.ledger.audit({ after: 0, limit: 10, action: 'opt_out.recorded' })).toMatchObject([
      { client: 'login:shop', keyId: 'token:login' },
    ]);
    const narrow = await tokenFor('checks:read');
    const refused = await send('GET', '/v1/propagation-lag', { key: narrow });
    expect([refused.status, refused.json.detail]).toEqual([403, 'The key lacks the scope lag:read.']);
  });

  test('for another audience is none', async () => {
    expect(await status(await tokenFor(SCOPES, 'https://other.test'))).toBe(401);
  });

  test('of a key that the issuer took up since is good; of one that it gave up, no longer', async () => {
    const before = await tokenFor(SCOPES);
    expect(await status(before)).toBe(200);
    const next = await makeKey('two');
    serveIssuer(next, key);
    // As a process that has just started, and one whose cool-down is over, would.
    await api[Symbol.asyncDispose]();
    await serveApi();
    const after = await tokenFor(SCOPES);
    expect([await status(before), await status(after)]).toEqual([200, 200]);
    serveIssuer(next);
    await api[Symbol.asyncDispose]();
    await serveApi();
    expect([await status(before), await status(after)]).toEqual([401, 200]);
  });
});

describe('what is no token of the issuer is refused', () => {
  test('what we forge as it should be is taken, or these tests would show nothing', async () => {
    expect(await status(await forge().sign(key.privateKey))).toBe(200);
  });

  test.each<[string, () => Promise<string>]>([
    ['signed by another key', async () => forge().sign((await makeKey('one')).privateKey)],
    [
      'of no algorithm',
      () =>
        Promise.resolve(
          new UnsecuredJWT({ client_id: 'shop', scope: SCOPES, iss: issuer, aud: AUDIENCE })
            .setIssuedAt()
            .setExpirationTime('5m')
            .encode(),
        ),
    ],
    [
      'signed with the public key as a shared secret',
      async () => forge({ alg: 'HS256' }).sign(new TextEncoder().encode(await exportSPKI(key.publicKey))),
    ],
    ['of another type: an ID token', () => forge({ typ: 'JWT' }).sign(key.privateKey)],
    ['over', () => forge().setExpirationTime('-1h').sign(key.privateKey)],
    ['not yet', () => forge().setNotBefore('1h').sign(key.privateKey)],
    ['by another issuer', () => forge({}, { iss: 'https://evil.test' }).sign(key.privateKey)],
    ['without a client', () => forge({}, { client_id: undefined }).sign(key.privateKey)],
    ['with a client that is no name', () => forge({}, { client_id: 'a b\n' }).sign(key.privateKey)],
    [
      'that brings its key along',
      async () => {
        const own = await makeKey('own');
        return forge({ kid: undefined, jwk: await exportJWK(own.publicKey) }).sign(own.privateKey);
      },
    ],
    [
      'that says where its keys are',
      async () => forge({ kid: 'evil', jku: `${issuer}/evil` }).sign((await makeKey('evil')).privateKey),
    ],
    [
      'with a path for a key id',
      async () => forge({ kid: '../../etc/passwd' }).sign((await makeKey('x')).privateKey),
    ],
    ['cut short', async () => (await forge().sign(key.privateKey)).slice(0, -4)],
    ['of three empty parts', () => Promise.resolve('..')],
  ])('%s', async (_, make) => {
    const answer = await send('GET', '/v1/propagation-lag', { key: await make() });
    expect([answer.status, answer.json.code]).toEqual([401, 'unauthenticated']);
  });

  test('a store that it names gives nothing without the scope, and with it that store alone', async () => {
    const worker = await forge({}, { scope: 'acknowledgements:write', store: 'crm' }).sign(key.privateKey);
    expect((await send('GET', '/v1/stores/other/outstanding', { key: worker })).status).toBe(404);
    const reader = await forge({}, { scope: 'lag:read', store: 'crm' }).sign(key.privateKey);
    expect((await send('GET', '/v1/stores/crm/outstanding', { key: reader })).status).toBe(403);
  });
});

test('a flood of unknown key ids does not become a flood to the issuer', async () => {
  expect(await status(await tokenFor(SCOPES))).toBe(200);
  const stranger = await makeKey('x');
  jwksAsked = 0;
  const tokens = await Promise.all(
    Array.from({ length: 50 }, (_, n) => forge({ kid: `unknown-${n}` }).sign(stranger.privateKey)),
  );
  expect(new Set(await Promise.all(tokens.map(status)))).toEqual(new Set([401]));
  expect(jwksAsked).toBeLessThanOrEqual(1);
});

test('an issuer that is away: known keys go on, what cannot be told is 503, and API keys do not notice', async () => {
  const token = await tokenFor(SCOPES);
  expect(await status(token)).toBe(200);
  isAway = true;
  expect(await status(token)).toBe(200);
  await api[Symbol.asyncDispose]();
  await serveApi();
  const answer = await send('GET', '/v1/propagation-lag', { key: token });
  expect([answer.status, answer.json.code]).toEqual([503, 'issuer-unavailable']);
  const { token: apiKey } = await api.t.ledger.createKey({
    client: 'shop',
    scopes: ['lag:read'],
    store: undefined,
    expiresAt: undefined,
    caller: undefined,
  });
  expect(await status(apiKey)).toBe(200);
  isAway = false;
  expect(await status(token)).toBe(200);
});
