// abide/client against the real API on a real ledger.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { AbideProblem, createAbide } from 'abide/client';
import type { Abide, AbideOptions, CheckItem, OptOut } from 'abide/client';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { eventually } from '../harness/eventually.ts';
import { outstandingOf, report, verified } from '../harness/ledger.ts';
import { watchedFetch } from './watched-fetch.ts';

let api: ServedToClients;
let abide: Abide;
beforeAll(async () => {
  api = await serveToClients({ declared: { topics: { email: ['newsletter'] }, purposes: ['analytics'] } });
  await api.t.register({ name: 'crm', scopes: ['email'], accepts: ['email'] });
  abide = createAbide({ url: api.url, key: api.key });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const client = (options: Partial<AbideOptions> = {}): Abide =>
  createAbide({ url: api.url, key: api.key, ...options } as AbideOptions);

let people = 0;
const somebody = () => ({ email: `person${(people += 1)}@example.com` });
const optOut = (who = somebody(), scopes = ['email']) => abide.optOuts.create({ identifiers: [who], scopes });

/** Acknowledges everything outstanding, as the store's worker would. */
async function acknowledgeAll(): Promise<void> {
  const outstanding = await outstandingOf(api.t.ledger, 'crm');
  await api.t.ledger.acknowledge('crm', report(outstanding.map((decision) => verified(decision))));
}

/** The problem that a call ends with. */
async function problemOf(call: Promise<unknown>): Promise<AbideProblem> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AbideProblem);
  return error as AbideProblem;
}

test('an opt-out is recorded, read back, and known of each of its identifiers', async () => {
  const who = somebody();
  const recorded = await abide.optOuts.create(
    {
      identifiers: [who, { phone: '+41791234567' }],
      scopes: ['email/newsletter', 'sms'],
      regimes: ['gdpr'],
      evidence: { method: 'phone', statement: 'stop all of it' },
    },
    { idempotencyKey: 'named-by-the-caller' },
  );
  expect(recorded).toMatchObject({
    outcome: 'recorded',
    requested_scopes: ['email/newsletter', 'sms'],
    idempotency_key: 'named-by-the-caller',
  });
  expect(await abide.optOuts.get(recorded.id)).toMatchObject({
    id: recorded.id,
    in_force: true,
    evidence: { statement: 'stop all of it' },
  });
  const { identifier, opt_outs } = await abide.subjects.lookup(who);
  expect(identifier.suppressed.map(({ scope }) => scope)).toEqual(['email/newsletter', 'sms']);
  expect(opt_outs.map(({ id }) => id)).toEqual([recorded.id]);
});

test('a caller who names no request has it named, each by another name', async () => {
  const [one, other] = [await optOut(), await optOut()];
  expect(one.idempotency_key).toMatch(/^[0-9a-f-]{36}$/);
  expect(other.idempotency_key).not.toBe(one.idempotency_key);
});

test('a list goes through all pages, and asks for the next one only when this one is used up', async () => {
  const since = new Date().toISOString();
  const ids: string[] = [];
  for (let n = 0; n < 25; n += 1) ids.unshift((await optOut()).id);
  const { fetch, passed } = watchedFetch();
  const watched = client({ fetch });

  const found: OptOut[] = [];
  for await (const one of watched.optOuts.list({ since, limit: 10 })) {
    found.push(one);
    expect(passed).toHaveLength(Math.ceil(found.length / 10));
  }
  expect(found.map(({ id }) => id)).toEqual(ids);
  expect(passed.map(({ url }) => new URL(url).searchParams.get('since'))).toEqual([since, since, since]);

  const nobody = watched.optOuts.list({ since: new Date(Date.now() + 60_000).toISOString() });
  expect(await nobody.next()).toEqual({ done: true, value: undefined });
});

describe('propagation', () => {
  test('who waits is told as soon as every required store has confirmed', async () => {
    await acknowledgeAll();
    const { id, propagation } = await optOut();
    expect(propagation).toMatchObject({ state: 'pending', required: 1 });
    const { fetch, passed } = watchedFetch();
    const began = performance.now();
    const waiting = client({ fetch }).optOuts.waitUntilPropagated(id);
    await eventually(() => expect(passed).toHaveLength(1));
    await acknowledgeAll();

    expect(await waiting).toMatchObject({ id, state: 'complete', verified: 1 });
    expect(performance.now() - began).toBeLessThan(10_000);
    expect(passed[0]?.prefer).toMatch(/^wait=2\d$/);
    expect(await abide.optOuts.propagation(id)).toMatchObject({
      stores: [{ store: 'crm', state: 'verified' }],
    });
  });

  test('who waits in vain is told so in time', async () => {
    const { id } = await optOut();
    const began = performance.now();
    const problem = await problemOf(abide.optOuts.waitUntilPropagated(id, { timeoutMs: 1_500 }));
    expect(problem).toMatchObject({ code: 'not-propagated', retryable: true, status: undefined });
    expect(problem.message).toBe('0 of 1 required stores have confirmed in time.');
    const tookMs = performance.now() - began;
    expect([tookMs > 1_450, tookMs < 5_000]).toEqual([true, true]);
  });

  test('where no store covers it there is nothing to wait for', async () => {
    const { id } = await abide.optOuts.create({ identifiers: [{ push_token: 'one' }], scopes: ['push'] });
    expect(await problemOf(abide.optOuts.waitUntilPropagated(id))).toMatchObject({
      code: 'uncovered',
      retryable: false,
    });
  });
});

describe('checks', () => {
  const item = (n: number): CheckItem => ({
    ref: `row ${n}`,
    identifiers: [{ email: `checked${n}@example.com` }],
    scope: 'email',
  });

  test('as many as there are are asked, a thousand a call, and answered in order', async () => {
    await optOut({ email: 'checked1700@example.com' });
    const { fetch, passed } = watchedFetch();
    const items = Array.from({ length: 2_500 }, (_, n) => item(n));
    const { items: answers, as_of } = await client({ fetch }).checks.ask(items);

    expect(passed).toHaveLength(3);
    expect(answers.map(({ ref }) => ref)).toEqual(items.map(({ ref }) => ref));
    const refused = answers.filter(({ allowed }) => !allowed);
    expect(refused).toMatchObject([{ ref: 'row 1700', reason: 'opted_out' }]);
    expect(Date.parse(as_of)).not.toBeNaN();
  });

  test('items that are large go in as many calls as they need', async () => {
    const long = 'ä'.repeat(200);
    const identifiers = Array.from({ length: 20 }, (_, n) => ({ person_id: `${n}${long}` }));
    const { fetch, passed } = watchedFetch();
    const items = Array.from({ length: 300 }, (_, n) => ({ ref: String(n), identifiers, scope: 'email' }));
    const { items: answers } = await client({ fetch }).checks.ask(items);
    expect(passed).toHaveLength(3);
    expect(answers.map(({ ref, allowed }) => [ref, allowed])).toEqual(items.map(({ ref }) => [ref, true]));
  });

  test('nothing asked is nothing answered', async () => {
    expect(await abide.checks.ask([])).toMatchObject({ items: [] });
  });

  test('no answer means no: where one call of several fails, none of it is an answer', async () => {
    const { fetch } = watchedFetch((n) => (n === 2 ? new TypeError('fetch failed') : undefined));
    const asked = client({ fetch, triesMax: 1 }).checks.ask(Array.from({ length: 1_001 }, (_, n) => item(n)));
    expect(await problemOf(asked)).toMatchObject({ code: 'no-answer', retryable: true });
  });

  test('answers of other items than those asked for are no answer', async () => {
    const other = {
      object: 'checks',
      as_of: '2026-11-24T09:00:05.000Z',
      items: [{ ref: 'x', allowed: true }],
    };
    const { fetch } = watchedFetch(() => Response.json(other));
    expect(await problemOf(client({ fetch }).checks.ask([item(1)]))).toMatchObject({
      code: 'unexpected-answer',
    });
    for (const items of [[], [{ ref: 'row 1', allowed: 'no' }], [{ ref: 'row 1' }]]) {
      const { fetch: wrong } = watchedFetch(() => Response.json({ ...other, items }));
      expect((await problemOf(client({ fetch: wrong }).checks.ask([item(1)]))).code).toBe(
        'unexpected-answer',
      );
    }
  });
});

test("a person's own later consent is recorded and read back", async () => {
  const who = somebody();
  await abide.optOuts.create({ identifiers: [who], scopes: ['email'], effective_at: '2026-03-01T09:00:00Z' });
  const consent = {
    identifier: who,
    scopes: ['email'],
    granted_at: '2026-03-02T09:00:00Z',
    evidence: { method: 'web_form', statement: 'Write to me again', source: 'https://example.com/p' },
  } as const;
  const recorded = await abide.grants.create(consent);
  expect(recorded).toMatchObject({ outcome: 'recorded', still_suppressed: [] });
  if (recorded.outcome === 'not_suppressed') throw new Error('nothing was lifted');
  expect(await abide.grants.get(recorded.id)).toMatchObject({ lifted_scopes: ['email'], in_force: true });

  const tooEarly = { ...consent, identifier: somebody(), granted_at: '2026-02-01T09:00:00Z' };
  await optOut(tooEarly.identifier);
  expect(await problemOf(abide.grants.create(tooEarly))).toMatchObject({
    code: 'grant-not-later',
    status: 409,
    errors: [{ pointer: '/scopes/0' }],
  });
});

test("a person's address is erased once the store holds the opt-out, which is waited for", async () => {
  const who = somebody();
  const { id } = await abide.optOuts.create({ identifiers: [who], scopes: ['email'] });
  const { fetch, passed } = watchedFetch();
  const erased = client({ fetch }).subjects.erase([who]);
  // It was refused once.
  await eventually(() => expect(passed.length).toBeGreaterThan(1));
  await acknowledgeAll();
  expect((await erased).identifiers).toMatchObject([{ outcome: 'erased', suppressed: [{ scope: 'email' }] }]);
  expect((await abide.optOuts.get(id)).identifiers).toMatchObject([{ masked: null }]);
});

// Found by reading: the answer was taken for a proxy's, and asked for until the time was over.
test('a lag that a pager is to hear of is an answer, although its status is 503', async () => {
  // No worker of its store was ever heard.
  await using late = await serveToClients();
  await late.t.register({ name: 'crm', scopes: ['email'], accepts: ['email'] });
  const { fetch, passed } = watchedFetch();
  const pager = createAbide({ url: late.url, key: late.key, fetch });
  const lag = await pager.call('GET /v1/propagation-lag', { query: { fail_on: 'late' } });
  expect(lag).toMatchObject({ status: 'unknown', stores: [{ store: 'crm' }] });
  expect(passed).toHaveLength(1);
});

test('the lag, a gate, and any other call of the API', async () => {
  const lag = await abide.lag();
  expect(lag.stores.map(({ store }) => store)).toEqual(['crm']);
  await optOut();
  const gate = () => abide.gate('crm', { maxAgeSeconds: 0.5 });
  await eventually(async () => expect(await gate()).toMatchObject({ store: 'crm', answer: 'hold' }));
  const parked = await abide.call('GET /v1/stores/{name}/quarantine', {
    path: { name: 'crm' },
    query: { kind: 'absent', limit: 5 },
  });
  expect(parked.quarantine).toEqual([]);
});

describe('problems', () => {
  test('a wrong key', async () => {
    const problem = await problemOf(client({ key: `${api.key.slice(0, -1)}!` }).lag());
    expect(problem).toMatchObject({ name: 'AbideProblem', code: 'unauthenticated', status: 401, errors: [] });
    expect(problem.retryable).toBe(false);
    expect(problem.requestId).toMatch(/^[0-9a-f-]{36}$/);
    expect(String(problem)).not.toContain(api.key);
  });

  test('a key without the scope', async () => {
    const { token } = await api.makeKey({ scopes: ['checks:read'] });
    const problem = await problemOf(client({ key: token }).lag());
    expect(problem).toMatchObject({ code: 'missing-scope', status: 403 });
    expect(problem.message).toContain('lag:read');
  });

  test('values that are wrong, each by its pointer', async () => {
    const problem = await problemOf(optOut({ email: 'nobody' }, ['email/newsleter']));
    expect(problem).toMatchObject({ code: 'invalid-value', status: 422, retryable: false });
    expect(problem.errors.map(({ pointer }) => pointer)).toEqual(['/identifiers/0/email', '/scopes/0']);
  });

  test('what is not there', async () => {
    const nowhere = '00000000-0000-7000-8000-000000000000';
    expect(await problemOf(abide.optOuts.get(nowhere))).toMatchObject({ code: 'not-found', status: 404 });
  });

  test.each(['', '.', '..'])('an id that is %j asks for nothing: it would be another path', async (id) => {
    await expect(abide.optOuts.get(id)).rejects.toThrow(TypeError);
  });

  test.each(['localhost:8080', '', 'ftp://abide.example.com'])('a URL that is none of ours: %j', (url) => {
    expect(() => client({ url })).toThrow(/URL/);
  });

  test('a key that no header takes is refused, and not quoted', async () => {
    await expect(client({ key: 'abide_live_secret\n' }).lag()).rejects.toThrow(/^A key or token has visible/);
  });
});

describe('an access token', () => {
  test('is asked for before each call, and once more where it is refused', async () => {
    const asked: (string | undefined)[] = [];
    const abideByToken = createAbide({
      url: api.url,
      token: ({ refused }) => {
        asked.push(refused);
        return Promise.resolve(refused === undefined ? 'over' : api.key);
      },
    });
    await abideByToken.lag();
    expect(asked).toEqual([undefined, 'over']);
  });

  test('that is refused and stays the same is refused', async () => {
    const { fetch, passed } = watchedFetch();
    const abideByToken = createAbide({ url: api.url, token: () => 'over', fetch });
    expect(await problemOf(abideByToken.lag())).toMatchObject({ code: 'unauthenticated' });
    expect(passed).toHaveLength(1);
  });

  test('that cannot be had is an error of its own', async () => {
    const why = new Error('the issuer is away');
    await expect(createAbide({ url: api.url, token: () => Promise.reject(why) }).lag()).rejects.toBe(why);
  });
});

describe('abort', () => {
  test('ends a call that waits, with the reason that the caller gave', async () => {
    const { id } = await optOut();
    const ending = new AbortController();
    const { fetch, passed } = watchedFetch();
    const waiting = client({ fetch }).optOuts.waitUntilPropagated(id, { signal: ending.signal });
    const caught = expect(waiting).rejects.toThrow('enough');
    await eventually(() => expect(passed).toHaveLength(1));
    ending.abort(new Error('enough'));
    await caught;
    expect(passed).toHaveLength(1);
  });

  test('ends a call that would be tried again', async () => {
    const ending = new AbortController();
    const { fetch, passed } = watchedFetch(() => new TypeError('fetch failed'));
    const trying = client({ fetch }).lag({ signal: ending.signal });
    const caught = expect(trying).rejects.toThrow('enough');
    await eventually(() => expect(passed.length).toBeGreaterThan(1));
    ending.abort(new Error('enough'));
    await caught;
  });

  test('that came before asks nobody', async () => {
    const { fetch, passed } = watchedFetch();
    await expect(client({ fetch }).lag({ signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no');
    expect(passed).toEqual([]);
  });

  test('leaves no listener behind on a signal that lives on', async () => {
    const { signal } = new AbortController();
    const listeners = { added: 0, removed: 0 };
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => ((listeners.added += 1), add(...args));
    signal.removeEventListener = (...args: Parameters<typeof remove>) => (
      (listeners.removed += 1),
      remove(...args)
    );
    for (let n = 0; n < 5; n += 1) await abide.lag({ signal });
    expect(listeners).toEqual({ added: 5, removed: 5 });
  });
});
