// An issuer of access tokens for the benchmark: its keys over HTTP, and one token.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';

const ISSUER = 'https://issuer.example';
const AUDIENCE = 'https://abide.example';

export async function openTokenIssuer(): Promise<
  AsyncDisposable & { readonly config: string; readonly token: string }
> {
  const { privateKey, publicKey } = await generateKeyPair('ES256');
  const keys = [{ ...(await exportJWK(publicKey)), kid: 'bench', alg: 'ES256', use: 'sig' }];
  const server = createServer((_, response) => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ keys }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    config: `oauth:\n  bench: { issuer: '${ISSUER}', audience: '${AUDIENCE}', jwks: 'http://127.0.0.1:${port}/jwks' }\n`,
    token: await new SignJWT({ client_id: 'bench', scope: 'opt_outs:write' })
      .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: 'bench' })
      .setIssuer(ISSUER)
      .setAudience(AUDIENCE)
      .setSubject('bench')
      .setJti('bench')
      .setIssuedAt()
      .setExpirationTime('1h')
      .sign(privateKey),
    [Symbol.asyncDispose]: async () => {
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
