// Access tokens of a real issuer (oidc-provider, client credentials). What an attacker would make of them:
// test/penetration/forged-tokens.pg.test.ts.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { readAudit } from '../../../ledger/audit.ts';
import { listUsage } from '../../../ledger/usage.ts';
import { eventually } from '../../harness/eventually.ts';
import { createSend } from '../../harness/http.ts';
import type { Send } from '../../harness/http.ts';
import { makeKey, SCOPES, startIssuer } from '../../harness/issuer.ts';
import type { Issuer } from '../../harness/issuer.ts';
import { awayFromMidnight } from '../../harness/midnight.ts';
import { serveLedger } from '../../harness/served-ledger.ts';
import type { ServedLedger } from '../../harness/served-ledger.ts';

let issuer: Issuer;
let api: ServedLedger;
let send: Send;
/** The clock that says when the issuer may be asked again: it goes on by a moment with each look at it. */
let nowMs = 0;

async function serveApi(): Promise<void> {
  const tokenOf = issuer.authenticator({ now: () => (nowMs += 0.001) });
  const authenticate = async (token: string) =>
    (await api.t.ledger.authenticate(token)) ?? (await tokenOf(token));
  api = await serveLedger({ authenticate });
  send = createSend(api.url);
}

beforeAll(async () => {
  issuer = await startIssuer();
});
afterAll(async () => {
  await issuer[Symbol.asyncDispose]();
});
beforeEach(async () => {
  issuer.comeBack();
  issuer.publish(issuer.key);
  await serveApi();
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const status = async (token: string): Promise<number> =>
  (await send('GET', '/v1/propagation-lag', { key: token })).status;

describe('a token of the issuer', () => {
  test('does what its scopes say, as a client of its own, and is audited and counted', async () => {
    await awayFromMidnight();
    const token = await issuer.tokenFor(SCOPES);
    const made = await send('POST', '/v1/opt-outs', {
      key: token,
      body: { subject: { email: 'ada@example.com' } },
    });
    expect(made.status).toBe(201);
    expect((await send('GET', `/v1/opt-outs/${made.json.id}`, { key: token })).status).toBe(200);
    expect(await readAudit(api.t.pool, { after: 0, limit: 10, action: 'opt_out.recorded' })).toMatchObject([
      { client: 'login:shop', keyId: 'token:login' },
    ]);
    await eventually(async () =>
      expect(await listUsage(api.t.pool, 1)).toMatchObject([
        { version: 'v1', client: 'login:shop', keyId: 'token:login', count: 2 },
      ]),
    );
    const narrow = await issuer.tokenFor('checks:read');
    const refused = await send('GET', '/v1/propagation-lag', { key: narrow });
    expect([refused.status, refused.json.detail]).toEqual([403, 'The key lacks the scope lag:read.']);
  });

  // It was answered 401, which no client repeats, for as long as Abide would not ask the issuer again.
  test('of a key that the issuer took up since is good as soon as the issuer may be asked again', async () => {
    expect(await status(await issuer.tokenFor(SCOPES))).toBe(200);
    issuer.publish(await makeKey('two'), issuer.key);
    const after = await issuer.tokenFor(SCOPES);

    const answer = await send('GET', '/v1/propagation-lag', { key: after });
    expect([answer.status, answer.json.code]).toEqual([503, 'issuer-unavailable']);
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
    expect(Number(answer.headers['retry-after'])).toBeLessThanOrEqual(5);
    nowMs += 5_000;

    expect(await status(after)).toBe(200);
  });

  test('of a key that it gave up is good no longer', async () => {
    const before = await issuer.tokenFor(SCOPES);
    expect(await status(before)).toBe(200);
    const next = await makeKey('two');
    issuer.publish(next);
    // Like a process that has just started.
    await api[Symbol.asyncDispose]();
    await serveApi();
    expect([await status(before), await status(await issuer.tokenFor(SCOPES))]).toEqual([401, 200]);
  });
});

test('an issuer that is away: known keys go on, what cannot be told is 503, and API keys do not notice', async () => {
  const token = await issuer.tokenFor(SCOPES);
  expect(await status(token)).toBe(200);
  issuer.goAway();
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
  issuer.comeBack();
  nowMs += 5_000;
  expect(await status(token)).toBe(200);
});
