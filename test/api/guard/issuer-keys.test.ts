// The keys of issuers as they are out there: without ids, late, away, broken. Behind the API's own door, over a ledger that only
// answers.
import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from '@jest/globals';
import { SignJWT } from 'jose';
import type { JWK } from 'jose';
import { createTokenAuthenticator } from '../../../api/guard/access-token.ts';
import type { TokenIssuer } from '../../../config/configuration.ts';
import { makeKey } from '../../harness/issuer.ts';
import type { Key } from '../../harness/issuer.ts';

const opened: AsyncDisposable[] = [];
afterEach(async () => {
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
  const authenticate = createTokenAuthenticator([issuerOf(keys)]);

  for (const signer of [before, now])
    expect(await authenticate(await tokenOf(signer, { kid }))).toMatchObject({ client: 'login:shop' });
  expect(await authenticate(await tokenOf(other, { kid }))).toBeUndefined();
  expect(await authenticate(await tokenOf(now, { kid, aud: 'https://other.test' }))).toBeUndefined();
});

test('an issuer that hangs is asked only for its own tokens, and delays no other one', async () => {
  const key = await makeKey('one');
  const hanging = await serveKeys(() => undefined);
  const keys = await serveKeys(publishing(publicOf(key, 'one')));
  const authenticate = createTokenAuthenticator([
    issuerOf(hanging, { name: 'hanging', issuer: 'https://hanging.test' }),
    issuerOf(keys),
    issuerOf(keys, { name: 'second', audience: 'https://second.test' }),
    issuerOf(hanging, { name: 'third', audience: 'https://third.test' }),
  ]);
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
