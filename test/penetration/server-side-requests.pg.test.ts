// Server-side request forgery: making Abide call an address of the attacker's, or one that only Abide can reach. It calls what its
// configuration names and nothing else; what leads to a private network is refused unless the configuration means it.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { generateKeyPair, SignJWT } from 'jose';
import { createTokenAuthenticator } from '../../api/guard/access-token.ts';
import { operationsOf, VERSIONS } from '../../api/versions.ts';
import { Item } from '../../connectors/contract/connector.ts';
import http, { isPublicAddress } from '../../connectors/http.ts';
import { ADMINISTRATOR_SCOPES } from '../../ledger/contract/api-keys.ts';
import { Address } from '../../suppression/subject.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';

/** A place where nobody has any business; what comes there is counted. */
const inside = createServer((_, response) => response.end('{}'));
let reached = 0;
inside.on('connection', () => (reached += 1));
let port: number;
let api: ServedToClients;
let everything: string;
beforeAll(async () => {
  await once(inside.listen(0, '127.0.0.1'), 'listening');
  port = (inside.address() as AddressInfo).port;
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
  everything = (await api.makeKey({ scopes: ADMINISTRATOR_SCOPES })).token;
});
afterAll(async () => {
  inside.close();
  inside.closeAllConnections();
  await api[Symbol.asyncDispose]();
});
beforeEach(() => {
  reached = 0;
});

const aims = (): string[] => [
  `http://127.0.0.1:${port}/`,
  `//127.0.0.1:${port}/`,
  `http://localhost:${port}/`,
  `127.0.0.1:${port}`,
  `http://[::ffff:127.0.0.1]:${port}/`,
  `gopher://127.0.0.1:${port}/_x`,
  'file:///etc/passwd',
  'http://169.254.169.254/latest/meta-data/',
];

describe('no request makes the API call anybody', () => {
  test('whatever member an address stands in, of any call', async () => {
    for (const aim of aims())
      for (const { method, path, examples } of Object.keys(VERSIONS).flatMap(operationsOf)) {
        const [example] = Object.values(examples);
        if (method !== 'post' || example?.body === undefined) continue;
        // Replaces every text of a good request, one after the other.
        const body = JSON.stringify(example.body);
        for (const text of new Set(body.match(/(?<=:)"[^"]*"/g)))
          await api.send('POST', path.replace(':name', 'crm'), {
            key: everything,
            body: body.replace(text, JSON.stringify(aim)),
          });
      }
    expect(reached).toBe(0);
  });

  test('whatever header it stands in', async () => {
    for (const aim of aims()) {
      const names = [
        'Forwarded',
        'X-Forwarded-Host',
        'X-Forwarded-For',
        'X-Original-URL',
        'X-Rewrite-URL',
        'X-Callback-URL',
        'Referer',
        'Origin',
        'From',
        'Via',
        'Link',
        'tracestate',
        'baggage',
        'Idempotency-Key',
        'Prefer',
      ];
      for (const name of names)
        await api.send('POST', '/v1/opt-outs', {
          key: everything,
          headers: { [name]: name === 'Forwarded' ? `host="${aim}"` : aim },
          body: { subject: { email: 'ada@example.com' } },
        });
      await api.send('GET', '/v1/opt-outs', {
        key: everything,
        headers: { Host: aim.replace(/^.*\/\//, '').replace(/\/.*/, '') || 'x' },
      });
    }
    expect(reached).toBe(0);
  });

  test('whatever query or path it stands in', async () => {
    for (const aim of aims().map(encodeURIComponent)) {
      for (const name of ['cursor', 'store', 'since', 'url', 'callback', 'redirect_uri'])
        await api.send('GET', `/v1/opt-outs?${name}=${aim}`, { key: everything });
      for (const path of ['/v1/opt-outs/', '/v1/stores/', '/v1/transport-keys/', '/'])
        await api.send('GET', `${path}${aim}`, { key: everything });
    }
    expect(reached).toBe(0);
  });
});

describe('a store of the configuration', () => {
  const SECRET = 'whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw==';
  const messagesOf = (options: object): string[] | undefined =>
    http.options.safeParse({ secret: SECRET, ...options }).error?.issues.map(({ message }) => message);

  test('at a private address is refused, in any spelling, unless it is meant', () => {
    for (const host of [
      '127.0.0.1',
      '127.1',
      '127.0.0.1.',
      '0177.0.0.1',
      '0x7f.1',
      '0x7f000001',
      '2130706433',
      '017700000001',
      '0',
      '0.0.0.0',
      '10.1.2.3',
      '169.254.169.254',
      '2852039166',
      '192.168.0.1',
      '100.64.0.1',
      '\u2460\u2461\u2466.0.0.1',
      '\uff11\uff12\uff17.0.0.1',
      '[::]',
      '[::1]',
      '[fd00::1]',
      '[fe80::1]',
      '[::ffff:127.0.0.1]',
      '[::ffff:7f00:1]',
      '[::127.0.0.1]',
      '[64:ff9b::7f00:1]',
      '[2002:7f00:1::]',
    ]) {
      expect([host, messagesOf({ url: `https://${host}/` })]).toEqual([
        host,
        ['is a private address: if that is intended, set allow_private: true'],
      ]);
      expect([host, messagesOf({ url: `http://${host}/`, allow_private: true })]).toEqual([host, undefined]);
    }
  });

  test.each(['mail.example.com@127.0.0.1', 'mail.example.com:secret@127.0.0.1'])(
    'that looks public before an @ is refused as what it is: %s',
    (host) => {
      expect(messagesOf({ url: `https://${host}/` })).toEqual([
        expect.stringMatching(/^must have no user and no password: /),
        'is a private address: if that is intended, set allow_private: true',
      ]);
    },
  );

  test.each([
    ['http://mail.example.com/', 'must be https://, unless allow_private: true'],
    ['ftp://mail.example.com/', 'must be an https:// URL'],
    ['file:///etc/passwd', 'must be an https:// URL'],
    ['gopher://mail.example.com/', 'must be an https:// URL'],
    ['data:application/json,{}', 'must be an https:// URL'],
    ['javascript:alert(1)', 'must be an https:// URL'],
    ['unix:/var/run/docker.sock', 'must be an https:// URL'],
    ['mail.example.com', 'must be an https:// URL'],
  ])('of another kind is refused: %s', (url, message) => {
    expect(messagesOf({ url })).toEqual([message]);
  });

  test('on the internet is taken', () => {
    for (const host of ['mail.example.com', '192.0.43.8', '[2606:4700::1111]'])
      expect([host, messagesOf({ url: `https://${host}/` })]).toEqual([host, undefined]);
  });

  test.each(['localhost', 'LOCALHOST'])(
    'under a name that leads inside is refused before anything is sent: %s',
    async (name) => {
      const silent = (): void => undefined;
      const context = {
        log: { debug: silent, info: silent, warn: silent, error: silent },
        name: 'mail',
        scopes: new Map(),
      };
      await using store = await http.open(
        http.options.parse({ url: `https://${name}:${port}/`, secret: SECRET }),
        context,
      );
      const item = new Item({
        seq: 1,
        version: 1,
        subject: { kind: 'email', value: new Address('ada@example.com') },
        key: 'ada@example.com',
        suppressed: { email: '2026-11-24T09:00:00.000Z' },
        granted: {},
        effectiveAt: '2026-11-24T09:00:00.000Z',
        lane: 'live',
      });
      await expect(store.apply([item], AbortSignal.timeout(10_000))).rejects.toMatchObject({
        code: 'STORE_UNREACHABLE',
        message: 'The name resolves to a private address. If that is intended, set allow_private: true.',
      });
      expect(reached).toBe(0);
    },
  );

  test('is public only where everybody on the internet reaches it', () => {
    for (const address of [
      '0.0.0.0',
      '10.0.0.1',
      '100.64.0.1',
      '127.255.255.255',
      '169.254.169.254',
      '172.16.0.1',
      '172.31.255.255',
      '192.168.1.1',
      '198.18.0.1',
      '224.0.0.1',
      '255.255.255.255',
      '::',
      '::1',
      '::ffff:8.8.8.8',
      '64:ff9b::7f00:1',
      'fe80::1',
      'fc00::1',
      'ff02::1',
      '2001:db8::1',
      '2002:7f00:1::',
      'not an address',
    ])
      expect([address, isPublicAddress(address)]).toEqual([address, false]);
    for (const address of [
      '8.8.8.8',
      '172.32.0.1',
      '192.0.43.8',
      '100.128.0.1',
      '2606:4700::1111',
      '2a00::1',
    ])
      expect([address, isPublicAddress(address)]).toEqual([address, true]);
  });
});

// That a store's redirects are not followed is in test/connectors/http.test.ts; for a token's, see forged-tokens.pg.test.ts.
test('an issuer that answers with another place for its keys is not followed there', async () => {
  const issuer = createServer((_, response) =>
    response.writeHead(302, { Location: `http://127.0.0.1:${port}/jwks` }).end(),
  );
  await once(issuer.listen(0, '127.0.0.1'), 'listening');
  const url = `http://127.0.0.1:${(issuer.address() as AddressInfo).port}`;
  const own = await generateKeyPair('ES256');
  const token = await new SignJWT({ client_id: 'shop', scope: 'lag:read', iss: url, aud: 'abide' })
    .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: 'own' })
    .setIssuedAt()
    .setExpirationTime('5m')
    .sign(own.privateKey);
  const authenticate = createTokenAuthenticator(
    [
      {
        name: 'login',
        issuer: url,
        audience: 'abide',
        jwks: `${url}/jwks`,
        algorithms: ['ES256'],
        scopes: undefined,
      },
    ],
    { log: { warn: () => undefined } },
  );
  try {
    await expect(authenticate(token)).rejects.toMatchObject({ code: 'issuer-unavailable' });
    expect(reached).toBe(0);
  } finally {
    issuer.close();
    issuer.closeAllConnections();
  }
});
