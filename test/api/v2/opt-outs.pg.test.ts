// What POST /v2/opt-outs adds to v1's: several identifiers, topics and purposes. What both do is tested only once, in v1/.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { problemOf } from '../../harness/http.ts';
import type { Answer, Ask } from '../../harness/http.ts';
import { outstandingOf } from '../../harness/ledger.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients({
    declared: { topics: { email: ['newsletter', 'offers'] }, purposes: ['analytics'] },
  });
  await api.t.register(
    { name: 'crm', scopes: ['email', 'sms'] },
    { name: 'mail', scopes: ['email'], accepts: ['email'] },
    { name: 'warehouse', scopes: ['analytics'], required: false },
  );
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

let people = 0;
/** Somebody whom no other test knows, by two identifiers. */
const somebody = () => {
  people += 1;
  return [{ email: `person${people}@example.com` }, { phone: `+4179${String(1_000_000 + people)}` }] as const;
};
const post = (
  body: object,
  { key = api.key, headers = {} }: Pick<Ask, 'key' | 'headers'> = {},
): Promise<Answer> => api.send('POST', '/v2/opt-outs', { key, body, headers });
const postV1 = (body: object, headers: Record<string, string> = {}): Promise<Answer> =>
  api.send('POST', '/v1/opt-outs', { key: api.key, body, headers });
const get = (path: string): Promise<Answer> => api.send('GET', path, { key: api.key });
const keyed = (key: string) => ({ headers: { 'idempotency-key': key } });
const decisionsOf = async (id: string) => {
  const { rows } = await api.t.pool.query<{ kind: string; version: number; scopes: string[] }>(
    `select kind, version, array(select jsonb_object_keys(suppressed)) as scopes from decisions
     where opt_out_id = $1 order by seq`,
    [id],
  );
  return rows;
};

describe('several identifiers of one person', () => {
  test('are one opt-out with one decision for each, due to the stores that accept each', async () => {
    const [email, phone] = somebody();
    const { status, json, headers } = await post({
      identifiers: [email, phone],
      scopes: ['email', 'sms', 'email/newsletter'],
      regimes: ['gdpr', 'tcpa', 'gdpr'],
      reason: 'complaint',
    });
    expect([status, headers['location']]).toEqual([201, `/v2/opt-outs/${json.id}`]);
    expect(Object.keys(json)).toEqual([
      'object',
      'api_version',
      'id',
      'outcome',
      'in_force',
      'identifiers',
      'requested_scopes',
      'reason',
      'regimes',
      'effective_at',
      'received_at',
      'recorded_at',
      'idempotency_key',
      'adjustments',
      'warnings',
      'propagation',
    ]);
    const held = ['email', 'email/newsletter', 'sms'].map((scope) => ({
      scope,
      since: json.effective_at,
      opt_out_id: json.id,
    }));
    expect(json).toMatchObject({
      outcome: 'recorded',
      in_force: true,
      identifiers: [
        { kind: 'email', suppressed: held },
        { kind: 'phone', suppressed: held },
      ],
      requested_scopes: ['email', 'sms', 'email/newsletter'],
      regimes: ['gdpr', 'tcpa'],
      warnings: [],
      propagation: { state: 'pending', required: 2, confirmed: 0, verified: 0, uncovered: [] },
    });
    expect(await decisionsOf(json.id)).toMatchObject([
      { kind: 'email', version: 1 },
      { kind: 'phone', version: 1 },
    ]);
    const due = async (store: string) =>
      (await outstandingOf(api.t.ledger, store)).filter(({ optOutId }) => optOutId === json.id);
    expect((await due('crm')).map(({ kind }) => kind)).toEqual(['email', 'phone']);
    expect((await due('mail')).map(({ kind }) => kind)).toEqual(['email']);
  });

  test('one that stands twice, in whatever spelling, counts once', async () => {
    const [{ email }] = somebody();
    const { json } = await post({
      identifiers: [{ email }, { email: ` ${email.toUpperCase()} ` }],
      scopes: ['email'],
    });
    expect(json.identifiers).toHaveLength(1);
    expect(await decisionsOf(json.id)).toHaveLength(1);
  });

  test('are decided anew together where one of them was opted out before, and its dates stay', async () => {
    const [email, phone] = somebody();
    const before = await post({
      identifiers: [email],
      scopes: ['email'],
      effective_at: '2026-01-01T00:00:00Z',
    });
    const { status, json } = await post({ identifiers: [email, phone], scopes: ['email'] });
    expect([status, json.outcome]).toEqual([201, 'recorded']);
    expect(json.identifiers[0].suppressed).toEqual([
      { scope: 'email', since: '2026-01-01T00:00:00.000Z', opt_out_id: before.json.id },
    ]);
    expect(await decisionsOf(json.id)).toMatchObject([
      { kind: 'email', version: 2 },
      { kind: 'phone', version: 1 },
    ]);
  });

  test('asked again, in another order and apart, nothing new is recorded', async () => {
    const [email, phone] = somebody();
    const first = await post({ identifiers: [email, phone], scopes: ['email', 'sms'] });
    for (const body of [
      { identifiers: [phone, email], scopes: ['sms'] },
      { identifiers: [phone], scopes: ['sms', 'email'] },
      { identifiers: [email], scopes: ['email'] },
    ]) {
      const { status, json } = await post(body);
      expect([status, json.outcome, json.id]).toEqual([200, 'already_opted_out', first.json.id]);
    }
    expect(await decisionsOf(first.json.id)).toHaveLength(2);
  });

  test('opted out apart and then together get one opt-out together, and only one', async () => {
    const [email, phone] = somebody();
    await post({ identifiers: [email], scopes: ['sms'] });
    await post({ identifiers: [phone], scopes: ['sms'] });
    const together = await post({ identifiers: [email, phone], scopes: ['sms'] });
    expect([together.status, together.json.outcome]).toEqual([201, 'recorded']);
    const again = await post({ identifiers: [email, phone], scopes: ['sms'] });
    expect([again.status, again.json.outcome, again.json.id]).toEqual([
      200,
      'already_opted_out',
      together.json.id,
    ]);
  });

  test('its propagation is complete only when each store has confirmed each of them', async () => {
    const [email, phone] = somebody();
    const { json } = await post({ identifiers: [email, phone], scopes: ['email', 'sms'] });
    const settle = async (store: string, kind: string): Promise<void> => {
      const all = await outstandingOf(api.t.ledger, store);
      const one = all.find((decision) => decision.optOutId === json.id && decision.kind === kind)!;
      await api.t.ledger.acknowledge(store, {
        store,
        generation: 1,
        worker: {
          id: 'w',
          incarnation: '1',
          lastError: undefined,
          source: { kind: 'http', status: 'ok', position: undefined, positionAgeSeconds: undefined },
        },
        acknowledgements: [
          {
            seq: one.seq,
            version: one.version,
            outcome: 'verified',
            held: { version: one.version, suppressed: Object.keys(one.suppressed) },
            carriedBy: 'catch_up',
            attempts: 1,
            code: undefined,
            evidence: {},
          },
        ],
      } as never);
    };
    const propagation = async () => (await get(`/v2/opt-outs/${json.id}/propagation`)).json;
    await settle('crm', 'email');
    await settle('mail', 'email');
    expect(await propagation()).toMatchObject({
      state: 'pending',
      required: 2,
      confirmed: 1,
      stores: [
        {
          store: 'crm',
          state: 'pending',
          decisions: [
            { identifier: { kind: 'email' }, state: 'verified' },
            { identifier: { kind: 'phone' }, state: 'pending' },
          ],
        },
        { store: 'mail', state: 'verified', decisions: [{ identifier: { kind: 'email' } }] },
      ],
    });
    expect((await get(`/v1/opt-outs/${json.id}/propagation`)).json).toMatchObject({
      state: 'pending',
      stores: [
        { store: 'crm', state: 'pending', acknowledged_at: null },
        { store: 'mail', state: 'verified' },
      ],
    });
    const waiting = api.send('GET', `/v2/opt-outs/${json.id}/propagation`, {
      key: api.key,
      headers: { prefer: 'wait=20' },
    });
    await settle('crm', 'phone');
    expect((await waiting).json).toMatchObject({ state: 'complete', confirmed: 2, verified: 2 });
  });
});

describe('scopes', () => {
  test('a topic is its own opt-out: it blocks its messages, asks for a topic, and never reads as the channel', async () => {
    const [email] = somebody();
    const { json } = await post({ identifiers: [email], scopes: ['email/newsletter'] });
    const check = async (scope: string) => {
      const body = { items: [{ identifiers: [email], scope }] };
      const { json } = await api.send('POST', '/v2/checks', { key: api.key, body });
      return [json.items[0].allowed, json.items[0].reason];
    };
    expect(await check('email/newsletter')).toEqual([false, 'opted_out']);
    expect(await check('email/offers')).toEqual([true, null]);
    expect(await check('email')).toEqual([false, 'topic_required']);
    expect(await check('email/unheard')).toEqual([false, 'invalid_item']);

    const v1 = await get(`/v1/opt-outs/${json.id}`);
    expect(v1.json).toMatchObject({
      requested_scope: { email: false, sms: false, push: false },
      scope: { email: false, sms: false, push: false },
      warnings: [{ code: 'not_whole_in_v1' }],
    });
    const looked = await api.send('POST', '/v1/subjects/lookup', { key: api.key, body: { subject: email } });
    expect(looked.json.scope).toEqual({ email: false, sms: false, push: false });
    const wider = await postV1({ subject: email, scope: { email: true } });
    expect([wider.status, wider.json.outcome]).toEqual([201, 'recorded']);
  });

  test('a purpose is none of the channels', async () => {
    const [email] = somebody();
    const { json } = await post({ identifiers: [email], scopes: ['analytics'] });
    expect(json.propagation).toMatchObject({ state: 'uncovered', required: 0, uncovered: ['analytics'] });
    const check = async (scope: string) => {
      const body = { items: [{ identifiers: [email], scope }] };
      return (await api.send('POST', '/v2/checks', { key: api.key, body })).json.items[0];
    };
    expect(await check('analytics')).toMatchObject({
      allowed: false,
      reason: 'opted_out',
      opt_out_id: json.id,
    });
    expect(await check('email')).toMatchObject({ allowed: true });
    expect(await check('profiling')).toMatchObject({ allowed: false, reason: 'invalid_item' });
  });

  test.each([
    [{ scopes: ['email/unheard'] }, ['/scopes/0']],
    [{ scopes: ['profiling'] }, ['/scopes/0']],
    [{ scopes: ['email', 'fax', 'sms/newsletter'] }, ['/scopes/1', '/scopes/2']],
    [{ scopes: [] }, ['/scopes']],
    [{ scopes: { email: true } }, ['/scopes']],
    [{ scope: { email: true }, scopes: ['email'] }, ['/scope']],
    [{ scopes: ['email'], subject: { email: 'a@example.com' } }, ['/subject']],
    [{ scopes: ['email'], identifiers: [] }, ['/identifiers']],
    [
      { scopes: ['email'], identifiers: [{ email: 'nobody' }, {}] },
      ['/identifiers/0/email', '/identifiers/1'],
    ],
    [{ scopes: ['email'], regimes: ['gdrp'] }, ['/regimes/0']],
    [{ scopes: ['email'], evidence: { statement: 'x' } }, ['/evidence/method']],
    [{ scopes: ['email'], idempotency_key: 'k' }, ['/idempotency_key']],
  ])('%j is refused by name, and nothing is recorded', async (fields, pointers) => {
    const [email] = somebody();
    expect(problemOf(await post({ identifiers: [email], ...fields }))).toEqual([
      422,
      'invalid-value',
      pointers,
    ]);
    const { json } = await api.send('POST', '/v2/subjects/lookup', {
      key: api.key,
      body: { identifier: email },
    });
    expect(json).toMatchObject({ identifier: { suppressed: [] }, opt_outs: [] });
  });
});

describe('v1 and v2 are one', () => {
  test('a retry that moves from one version to the other under its key writes nothing twice, and is answered in its own words', async () => {
    const [email] = somebody();
    const subject = { email: email.email };
    const first = await postV1({ subject, scope: { email: true } }, { 'idempotency-key': 'move-1' });
    const moved = await post({ identifiers: [subject], scopes: ['email'] }, keyed('move-1'));
    expect([moved.status, moved.headers['idempotency-replayed'], moved.json.api_version]).toEqual([
      201,
      'true',
      'v2',
    ]);
    expect(moved.json).toMatchObject({
      id: first.json.id,
      outcome: 'recorded',
      idempotency_key: 'move-1',
      recorded_at: first.json.recorded_at,
      identifiers: [{ kind: 'email', suppressed: [{ scope: 'email', opt_out_id: first.json.id }] }],
    });
    const back = await postV1({ subject, scope: { email: true } }, { 'idempotency-key': 'move-1' });
    expect(back.text).toBe(first.text);
    expect(await decisionsOf(first.json.id)).toHaveLength(1);
  });

  test('both at once under one key are one opt-out', async () => {
    const [email] = somebody();
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        n % 2 === 0
          ? postV1({ subject: email, scope: { email: true } }, { 'idempotency-key': 'move-2' })
          : post({ identifiers: [email], scopes: ['email'] }, keyed('move-2')),
      ),
    );
    expect(new Set(answers.map(({ json }) => json.id)).size).toBe(1);
    expect(answers.map(({ json }) => json.api_version)).toEqual(
      answers.map((_, n) => (n % 2 === 0 ? 'v1' : 'v2')),
    );
    expect(answers.filter(({ headers }) => headers['idempotency-replayed'] === undefined)).toHaveLength(1);
  });

  test('the same key with more than v1 could say is another request', async () => {
    const [email, phone] = somebody();
    await postV1({ subject: email, scope: { email: true } }, { 'idempotency-key': 'move-3' });
    for (const body of [
      { identifiers: [email, phone], scopes: ['email'] },
      { identifiers: [email], scopes: ['email', 'email/newsletter'] },
      { identifiers: [email], scopes: ['email'], regimes: ['gdpr'] },
      { identifiers: [email], scopes: ['email'], evidence: { method: 'phone' } },
    ])
      expect(problemOf(await post(body, keyed('move-3')))).toEqual([
        422,
        'idempotency-key-reused',
        undefined,
      ]);
  });

  test('what v1 recorded is listed and read by v2, and the reverse, each in its own words', async () => {
    const [email, phone] = somebody();
    const one = await postV1({ subject: email, scope: { sms: true } });
    const two = await post({
      identifiers: [phone, email],
      scopes: ['sms', 'email'],
      evidence: { method: 'phone', statement: 'stop' },
      note: 'called',
    });
    const v2 = await get('/v2/opt-outs?limit=2');
    expect(v2.json.opt_outs).toMatchObject([
      {
        id: two.json.id,
        identifiers: [{ kind: 'phone' }, { kind: 'email' }],
        evidence: { method: 'phone', statement: 'stop', source: null },
      },
      { id: one.json.id, identifiers: [{ kind: 'email' }], requested_scopes: ['sms'], evidence: null },
    ]);
    expect(v2.headers['link']).toContain('</v2/opt-outs?limit=2&cursor=');
    const v1 = await get('/v1/opt-outs?limit=2');
    expect(v1.json.opt_outs).toMatchObject([
      { id: two.json.id, subject: { kind: 'phone' }, warnings: [{ code: 'not_whole_in_v1' }] },
      { id: one.json.id, subject: { kind: 'email' } },
    ]);
    expect(v1.json.opt_outs[1].warnings).toEqual([
      expect.objectContaining({ code: 'channel_needs_other_identifier', channel: 'sms' }),
    ]);
  });

  // v1 answers an empty list, as if the store held all.
  test('a list by a store that does not exist is refused, so that a typo does not look like a store without gaps', async () => {
    const typo = await get('/v2/opt-outs?store=cmr&state=pending');
    expect(problemOf(typo)).toEqual([422, 'invalid-value', ['/store']]);
    expect((await get('/v2/opt-outs?store=crm')).status).toBe(200);
    expect((await get('/v1/opt-outs?store=cmr&state=pending')).json.opt_outs).toEqual([]);
  });

  test("another client's opt-out is not found, and neither is its propagation", async () => {
    const [email] = somebody();
    const { json } = await post({ identifiers: [email], scopes: ['email'] });
    const { token: key } = await api.makeKey({ client: 'other' });
    for (const path of [`/v2/opt-outs/${json.id}`, `/v2/opt-outs/${json.id}/propagation`])
      expect((await api.send('GET', path, { key })).status).toBe(404);
    expect((await api.send('GET', '/v2/opt-outs', { key })).json.opt_outs).toEqual([]);
  });
});

describe('a key that is used again in the other version', () => {
  const shownV2 = ({ json }: Answer): string[] =>
    json.identifiers[0].suppressed.map(({ scope }: { scope: string }) => scope).sort();

  test('shows what this identifier had come to, and not what another one of the same opt-out had', async () => {
    const [email, phone] = somebody();
    await post({ identifiers: [email], scopes: ['sms', 'push'] });
    await post({ identifiers: [email, phone], scopes: ['email'] });
    const key = `again-${people}`;
    const first = await postV1({ subject: phone, scope: { email: true } }, { 'idempotency-key': key });
    expect(first.json).toMatchObject({ outcome: 'already_opted_out', scope: { email: true, sms: false } });
    const again = await post({ identifiers: [phone], scopes: ['email'] }, keyed(key));
    expect(again.headers['idempotency-replayed']).toBe('true');
    expect(shownV2(again)).toEqual(['email']);
  });

  test('shows what was lifted by then as lifted, and what came later as well', async () => {
    const [email] = somebody();
    const effective_at = '2026-03-01T09:00:00.000Z';
    const body = { subject: email, scope: { email: true, sms: true }, effective_at };
    await postV1(body);
    await api.send('POST', '/v2/grants', {
      key: api.key,
      body: {
        identifier: email,
        scopes: ['email'],
        granted_at: '2026-03-02T09:00:00.000Z',
        evidence: { method: 'web_form', statement: 'Yes', source: 'a page' },
      },
    });
    const key = `lifted-${people}`;
    const first = await postV1(body, { 'idempotency-key': key });
    expect(first.json).toMatchObject({ outcome: 'already_recorded', scope: { email: false, sms: true } });
    const again = await post({ identifiers: [email], scopes: ['email', 'sms'], effective_at }, keyed(key));
    expect(again.json).toMatchObject({ outcome: 'already_recorded', in_force: false });
    expect(shownV2(again)).toEqual(['sms']);
  });

  test('says again that a date ahead was taken as now', async () => {
    const [email] = somebody();
    const effective_at = new Date(Date.now() + 20 * 60_000).toISOString();
    const key = `ahead-${people}`;
    const first = await postV1(
      { subject: email, scope: { email: true }, effective_at },
      { 'idempotency-key': key },
    );
    const again = await post({ identifiers: [email], scopes: ['email'], effective_at }, keyed(key));
    expect(first.json.adjustments).toHaveLength(1);
    expect(again.json.adjustments).toMatchObject([{ code: 'effective_at_in_future' }]);
  });
});

test('a call that knows no query refuses one: a dry run that records would be for ever', async () => {
  const [email] = somebody();
  const body = { identifiers: [email], scopes: ['email'] };
  const refused = await api.send('POST', '/v2/opt-outs?dry_run=true', { key: api.key, body });
  expect(problemOf(refused)).toEqual([422, 'invalid-value', ['/dry_run']]);
  expect((await post(body)).json.outcome).toBe('recorded');
});
