// An OAuth 2 issuer as an installation has one (oidc-provider, client credentials), at one address through every change of its
// keys; and tokens as somebody would forge them who knows what the issuer's own look like.
import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { jest } from '@jest/globals';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import type { CryptoKey, JWK } from 'jose';
import Provider from 'oidc-provider';
import { request } from 'undici';
import { createTokenAuthenticator } from '../../api/guard/access-token.ts';
import type { TokenAuthenticator } from '../../api/guard/access-token.ts';

export const AUDIENCE = 'https://abide.test';
export const SCOPES = 'opt_outs:write opt_outs:read checks:read lag:read';

export type Key = { readonly jwk: JWK; readonly privateKey: CryptoKey; readonly publicKey: CryptoKey };

export async function makeKey(kid: string): Promise<Key> {
  const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
  return { jwk: { ...(await exportJWK(privateKey)), kid, alg: 'ES256', use: 'sig' }, privateKey, publicKey };
}

export type Issuer = AsyncDisposable & {
  readonly url: string;
  readonly key: Key;
  /** What was asked of it, in order. */
  readonly asked: readonly string[];
  /** From now on it signs with the first of these, and publishes all of them. */
  publish(...keys: readonly Key[]): void;
  goAway(): void;
  comeBack(): void;
  /** A token as client `shop` gets one. */
  tokenFor(scope: string, resource?: string): Promise<string>;
  /** Not signed yet; every member of header and claims can be replaced. */
  forge(header?: Record<string, unknown>, claims?: Record<string, unknown>): SignJWT;
  /** Takes the issuer's tokens, like a process that has just started. */
  authenticator(options?: { now: () => number }): TokenAuthenticator;
};

export async function startIssuer(): Promise<Issuer> {
  const asked: string[] = [];
  let isAway = false;
  let handler: RequestListener = (_, response) => response.destroy();
  const front = createServer((incoming, response) => {
    asked.push(incoming.url!);
    if (isAway) response.destroy();
    else handler(incoming, response);
  });
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(front.address() as AddressInfo).port}`;
  const key = await makeKey('one');

  function publish(...keys: readonly Key[]): void {
    // It warns that it is set up for a test.
    const warn = jest.spyOn(console, 'warn').mockImplementation(() => undefined);
    const provider = new Provider(url, {
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
      ttl: { ClientCredentials: 300 },
      cookies: { keys: ['of a test'] },
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
    warn.mockRestore();
    const callback = provider.callback();
    handler = (incoming, response) => void callback(incoming, response);
  }
  publish(key);

  return {
    url,
    key,
    asked,
    publish,
    goAway: () => void (isAway = true),
    comeBack: () => void (isAway = false),
    tokenFor: async (scope, resource = AUDIENCE) => {
      const answer = await request(`${url}/token`, {
        method: 'POST',
        headers: {
          'content-type': 'application/x-www-form-urlencoded',
          authorization: `Basic ${Buffer.from(`shop:${encodeURIComponent('a secret of the shop')}`).toString('base64')}`,
        },
        body: new URLSearchParams({ grant_type: 'client_credentials', scope, resource }).toString(),
      });
      const text = await answer.body.text();
      const { access_token: token } = JSON.parse(text) as { access_token?: string };
      if (token?.split('.').length !== 3) throw new Error(text);
      return token;
    },
    forge: ({ typ = 'at+jwt', kid = 'one', alg = 'ES256', ...header } = {}, claims = {}) =>
      new SignJWT({
        client_id: 'shop',
        scope: SCOPES,
        iss: url,
        aud: AUDIENCE,
        sub: 'shop',
        jti: 'x',
        ...claims,
      })
        .setProtectedHeader({ alg: alg as string, typ: typ as string, kid: kid as string, ...header })
        .setIssuedAt()
        .setExpirationTime('5m'),
    authenticator: (options) =>
      createTokenAuthenticator(
        [
          {
            name: 'login',
            issuer: url,
            audience: AUDIENCE,
            jwks: `${url}/jwks`,
            algorithms: ['ES256'],
            scopes: undefined,
          },
        ],
        { log: { warn: () => undefined }, ...options },
      ),
    [Symbol.asyncDispose]: async () => {
      await new Promise((resolve) => {
        front.close(resolve);
        front.closeAllConnections();
      });
    },
  };
}
