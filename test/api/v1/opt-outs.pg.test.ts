// Every row of what POST /v1/opt-outs answers, over the real ledger. What concerns only HTTP is in opt-outs.test.ts.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { grant } from '../../harness/ledger.ts';
import { commitOnceWaitedFor, withClient } from '../../harness/database.ts';
import { eventually } from '../../harness/eventually.ts';
import { problemOf } from '../../harness/http.ts';
import type { Answer, Ask } from '../../harness/http.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register(
    { name: 'crm', scopes: ['email', 'sms'] },
    { name: 'mail', scopes: ['email'], accepts: ['email'] },
    { name: 'sessions', scopes: ['push'], required: false },
  );
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const INSTANT = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/;
const DAY = '2026-03-01T09:00:00.000Z';

let people = 0;
/** Somebody whom no other test knows. */
const somebody = () => ({ email: `person${(people += 1)}@example.com` });

const post = (
  body: object,
  { key = api.key, headers = {} }: Pick<Ask, 'key' | 'headers'> = {},
): Promise<Answer> => api.send('POST', '/v1/opt-outs', { key, body, headers });

const counts = async () => {
  const { rows } = await api.t.pool.query<{ opt_outs: number; decisions: number; audited: number }>(
    `select (select count(*) from opt_outs) as opt_outs, (select count(*) from decisions) as decisions,
            (select count(*) from audit_log where action like 'opt_out.%') as audited`,
  );
  return rows[0]!;
};

/** What a request added: opt-outs, decisions, audit rows. */
async function added(work: () => Promise<unknown>): Promise<number[]> {
  const before = await counts();
  await work();
  const after = await counts();
  return [
    after.opt_outs - before.opt_outs,
    after.decisions - before.decisions,
    after.audited - before.audited,
  ];
}

async function liftAll(optOutId: string, scopes: readonly string[]): Promise<void> {
  const { rows } = await api.t.pool.query<{ subject_id: string }>(
    'select subject_id from opt_out_subjects where opt_out_id = $1',
    [optOutId],
  );
  await grant(api.t, rows[0]!.subject_id, scopes);
}

describe('new', () => {
  test('is 201 with exactly these members in this order, recorded once, decided once, audited once', async () => {
    let answer!: Answer;
    const subject = somebody();
    expect(
      await added(async () => {
        answer = await post({
          subject,
          scope: { email: true, sms: true },
          effective_at: '2026-03-01T10:00:00+01:00',
          reason: 'complaint',
          note: 'asked on the phone',
          idempotency_key: 'new-1',
        });
      }),
    ).toEqual([1, 1, 1]);
    const { status, headers, text, json } = answer;
    expect([status, headers.location, headers['idempotency-replayed']]).toEqual([
      201,
      `/v1/opt-outs/${json.id}`,
      undefined,
    ]);
    expect(json.id).toMatch(UUID);
    expect(json.received_at).toMatch(INSTANT);
    expect(json.recorded_at).toMatch(INSTANT);
    expect(json.received_at <= json.recorded_at).toBe(true);
    expect(text).toBe(
      JSON.stringify({
        object: 'opt_out',
        api_version: 'v1',
        id: json.id,
        outcome: 'recorded',
        subject: { kind: 'email', masked: 'p••@e••.com' },
        requested_scope: { email: true, sms: true, push: false },
        scope: { email: true, sms: true, push: false },
        effective: { email: DAY, sms: DAY, push: null },
        effective_at: DAY,
        received_at: json.received_at,
        recorded_at: json.recorded_at,
        idempotency_key: 'new-1',
        warnings: [
          {
            code: 'channel_needs_other_identifier',
            channel: 'sms',
            detail: 'sms reaches people by a phone number: opt that out as well.',
          },
        ],
        propagation: {
          state: 'pending',
          required: 2,
          confirmed: 0,
          verified: 0,
          uncovered: [],
          url: `/v1/opt-outs/${json.id}/propagation`,
        },
      }),
    );
  });

  test('without a date is effective from its receipt, without a key carries its own, without a scope means all', async () => {
    const { json } = await post({ subject: somebody() });
    expect(json).toMatchObject({
      scope: { email: true, sms: true, push: true },
      effective_at: json.received_at,
      idempotency_key: `auto_${json.id}`,
      // Only a required store covers a scope, and none is required for push.
      propagation: { state: 'pending', required: 2, uncovered: ['push'] },
    });
  });

  test('that no required store covers is uncovered, never complete', async () => {
    const { json } = await post({ subject: { push_token: 'fcm:1' }, scope: { push: true } });
    expect(json.propagation).toMatchObject({ state: 'uncovered', required: 0, uncovered: ['push'] });
  });

  test('that is wider than before is recorded, and its scope is the resulting state', async () => {
    const subject = somebody();
    const first = await post({ subject, scope: { email: true }, effective_at: DAY });
    const wider = await post({
      subject,
      scope: { email: true, push: true },
      effective_at: '2026-02-01T00:00:00Z',
    });
    expect([wider.status, wider.json.outcome]).toEqual([201, 'recorded']);
    expect(wider.json.id).not.toBe(first.json.id);
    expect(wider.json).toMatchObject({
      requested_scope: { email: true, sms: false, push: true },
      scope: { email: true, sms: false, push: true },
      effective: { email: '2026-02-01T00:00:00.000Z', sms: null, push: '2026-02-01T00:00:00.000Z' },
    });
  });

  test('that says false for what is suppressed takes nothing away', async () => {
    const subject = somebody();
    await post({ subject, scope: { email: true } });
    const { json } = await post({ subject, scope: { email: false, sms: true } });
    expect(json.scope).toEqual({ email: true, sms: true, push: false });
  });

  test('dated up to an hour ahead is taken as of its receipt, and says so', async () => {
    const { status, json } = await post({
      subject: somebody(),
      effective_at: new Date(Date.now() + 3_000_000).toISOString(),
    });
    expect([status, json.effective_at]).toEqual([201, json.received_at]);
    expect(json.adjustments).toEqual([
      {
        code: 'effective_at_in_future',
        pointer: '/effective_at',
        detail: 'The date lay ahead and was taken as the time of receipt.',
      },
    ]);
  });

  test('dated further ahead is 422 and records nothing', async () => {
    const far = { subject: somebody(), effective_at: new Date(Date.now() + 4_200_000).toISOString() };
    expect(
      await added(async () => {
        expect(problemOf(await post(far))).toEqual([422, 'invalid-value', ['/effective_at']]);
      }),
    ).toEqual([0, 0, 0]);
  });
});

describe('nothing would change', () => {
  test('is 200 with the opt-out that covered all that was asked: an audit row, no decision, no event', async () => {
    const subject = somebody();
    const first = await post({ subject, effective_at: DAY, idempotency_key: 'repeat-1' });
    let answers!: Answer[];
    expect(
      await added(async () => {
        answers = [
          await post({ subject }),
          await post({ subject, scope: { sms: true }, reason: 'legal' }),
          await post({ subject, idempotency_key: 'repeat-2', effective_at: DAY }),
        ];
      }),
    ).toEqual([0, 0, 3]);
    for (const { status, headers, json } of answers) {
      expect([status, headers.location, json.id, json.outcome]).toEqual([
        200,
        `/v1/opt-outs/${first.json.id}`,
        first.json.id,
        'already_opted_out',
      ]);
      expect(Object.keys(json)).toEqual(Object.keys(first.json));
      expect(json).toMatchObject({
        scope: { email: true, sms: true, push: true },
        effective_at: DAY,
        received_at: first.json.received_at,
        recorded_at: first.json.recorded_at,
      });
    }
    expect(answers.map(({ json }) => json.requested_scope)).toEqual([
      { email: true, sms: true, push: true },
      { email: false, sms: true, push: false },
      { email: true, sms: true, push: true },
    ]);
    expect(answers.map(({ json }) => json.idempotency_key)).toEqual([
      `auto_${first.json.id}`,
      `auto_${first.json.id}`,
      'repeat-2',
    ]);
    const { rows } = await api.t.pool.query(
      "select action, client, resource from audit_log where resource = $1 and action <> 'opt_out.recorded'",
      [first.json.id],
    );
    expect(rows).toEqual(
      Array(3).fill({ action: 'opt_out.repeated', client: 'shop', resource: first.json.id }),
    );
  });

  test('names the newest opt-out whose resulting state first covered it', async () => {
    const subject = somebody();
    const email = await post({ subject, scope: { email: true } });
    const sms = await post({ subject, scope: { sms: true } });
    const push = await post({ subject, scope: { push: true } });
    const ask = async (scope: object) => (await post({ subject, scope })).json.id;
    expect(await ask({ email: true })).toBe(email.json.id);
    expect(await ask({ email: true, sms: true })).toBe(sms.json.id);
    expect(await ask({ email: true, push: true })).toBe(push.json.id);
  });

  test('is so for every client, each of whom sees only that it holds', async () => {
    const subject = somebody();
    const { token: other } = await api.makeKey({ client: 'other' });
    const first = await post({ subject, note: 'of the shop', idempotency_key: 'private' });
    const answer = await post({ subject }, { key: other });
    expect([answer.status, answer.json.outcome, answer.json.id]).toEqual([
      200,
      'already_opted_out',
      first.json.id,
    ]);
    expect(answer.text).not.toContain('private');
    expect(problemOf(await api.send('GET', answer.headers.location!, { key: other }))).toEqual([
      404,
      'not-found',
    ]);
  });

  test('has the propagation of now', async () => {
    const subject = somebody();
    const first = await post({ subject, scope: { email: true } });
    const page = await api.t.ledger.outstanding('mail', {
      after: undefined,
      limit: 1_000,
      waitMs: 0,
      worker: undefined,
      signal: AbortSignal.timeout(10_000),
    });
    const decision = page!.decisions.find(({ optOutId }) => optOutId === first.json.id)!;
    await api.t.ledger.acknowledge('mail', {
      generation: 1,
      worker: {
        id: 'w',
        incarnation: 'i',
        lastError: undefined,
        source: { kind: 'http', status: 'ok', position: undefined, positionAgeSeconds: 0, parked: 0 },
      },
      acknowledgements: [
        {
          seq: decision.seq,
          version: decision.version,
          outcome: 'verified',
          held: { version: 1, suppressed: ['email'] },
          carriedBy: 'stream',
          attempts: 1,
          code: undefined,
          evidence: {},
        },
      ],
    });
    expect(first.json.propagation).toMatchObject({ required: 2, confirmed: 0, verified: 0 });
    expect((await post({ subject, scope: { email: true } })).json.propagation).toMatchObject({
      state: 'pending',
      required: 2,
      confirmed: 1,
      verified: 1,
    });
  });
});

describe('the same opt-out again after a grant', () => {
  test('is 200 already_recorded and says that it is not in force, under no key or another; a different one suppresses', async () => {
    const subject = somebody();
    const dated = { subject, scope: { email: true }, effective_at: DAY };
    const first = await post({ ...dated, idempotency_key: 'granted-1' });
    await liftAll(first.json.id, ['email']);

    let late!: Answer[];
    expect(
      await added(async () => {
        late = [await post(dated), await post({ ...dated, idempotency_key: 'granted-2', note: 'again' })];
      }),
    ).toEqual([0, 0, 2]);
    for (const { status, json, headers } of late) {
      expect([status, json.outcome, json.id, json.in_force, headers.location]).toEqual([
        200,
        'already_recorded',
        first.json.id,
        false,
        `/v1/opt-outs/${first.json.id}`,
      ]);
      expect(json.scope).toEqual({ email: false, sms: false, push: false });
      expect(Object.keys(json).slice(0, 6)).toEqual([
        'object',
        'api_version',
        'id',
        'outcome',
        'in_force',
        'subject',
      ]);
    }
    const replay = await post({ ...dated, idempotency_key: 'granted-1' });
    expect([replay.text, replay.status, replay.headers['idempotency-replayed']]).toEqual([
      first.text,
      201,
      'true',
    ]);
    expect((await api.send('GET', `/v1/opt-outs/${first.json.id}`, { key: api.key })).json.in_force).toBe(
      false,
    );

    const older = await post({ ...dated, effective_at: '2020-01-01T00:00:00Z' });
    expect([older.status, older.json.outcome, older.json.scope.email]).toEqual([201, 'recorded', true]);
    expect((await api.send('GET', `/v1/opt-outs/${first.json.id}`, { key: api.key })).json.in_force).toBe(
      true,
    );
  });

  test('with another scope, or without a stated date, suppresses on arrival', async () => {
    for (const again of [
      { scope: { email: true, sms: true }, effective_at: DAY },
      { scope: { email: true } },
    ]) {
      const subject = somebody();
      const first = await post({ subject, scope: { email: true }, effective_at: DAY });
      await liftAll(first.json.id, ['email']);
      const { status, json } = await post({ subject, ...again });
      expect([status, json.outcome, json.scope.email]).toEqual([201, 'recorded', true]);
    }
  });
});

describe('the same key', () => {
  test('with the same intent in any spelling is the first answer, byte for byte, and is audited', async () => {
    const { email } = somebody();
    const first = await post({ subject: { email }, effective_at: DAY, note: 'n', idempotency_key: 'same-1' });
    const spellings: [object, Record<string, string>?][] = [
      [{ subject: { email }, effective_at: DAY, note: 'n', idempotency_key: 'same-1' }],
      [{ subject: { email }, effective_at: DAY, note: 'n' }, { 'Idempotency-Key': 'same-1' }],
      [
        {
          note: 'n',
          reason: 'person_request',
          idempotency_key: 'same-1',
          effective_at: '2026-03-01T04:00:00.0000-05:00',
          scope: { push: true, sms: true, email: true },
          subject: { email: ` ${email.toUpperCase()} ` },
        },
      ],
    ];
    let replays!: Answer[];
    expect(
      await added(async () => {
        // This holds whatever happens to the subject meanwhile.
        replays = [];
        for (const [body, headers] of spellings) replays.push(await post(body, { headers: headers ?? {} }));
      }),
    ).toEqual([0, 0, 3]);
    for (const { text, status, headers } of replays)
      expect([
        text,
        status,
        headers['idempotency-replayed'],
        headers.location,
        headers['content-type'],
      ]).toEqual([first.text, 201, 'true', first.headers.location, first.headers['content-type']]);
    const { rows } = await api.t.pool.query(
      'select action, count(*) from audit_log where resource = $1 group by action order by action',
      [first.json.id],
    );
    expect(rows).toEqual([
      { action: 'opt_out.recorded', count: 1 },
      { action: 'opt_out.replayed', count: 3 },
    ]);
  });

  test('is the first answer also where that was a repeat, and whatever happened since, and from any process', async () => {
    const subject = somebody();
    await post({ subject, scope: { email: true } });
    const repeat = await post({ subject, scope: { email: true }, idempotency_key: 'same-2' });
    expect([repeat.status, repeat.json.outcome]).toEqual([200, 'already_opted_out']);
    await post({ subject, scope: { sms: true, push: true } });
    await liftAll(repeat.json.id, ['email']);
    const elsewhere = await api.serve(await api.t.another());
    const replay = await elsewhere('POST', '/v1/opt-outs', {
      key: api.key,
      body: { subject, scope: { email: true }, idempotency_key: 'same-2' },
    });
    expect([replay.text, replay.status, replay.headers['idempotency-replayed']]).toEqual([
      repeat.text,
      200,
      'true',
    ]);
  });

  test('with another intent is 422 whatever differs, and records nothing', async () => {
    const subject = somebody();
    const intent = { subject, scope: { email: true }, effective_at: DAY, idempotency_key: 'other-1' };
    await post(intent);
    const others = [
      { ...intent, subject: somebody() },
      { ...intent, scope: { email: true, sms: true } },
      { ...intent, scope: undefined },
      { ...intent, effective_at: '2026-03-01T09:00:00.001Z' },
      { ...intent, effective_at: undefined },
      { ...intent, reason: 'legal' },
      { ...intent, note: 'n' },
    ];
    expect(
      await added(async () => {
        for (const other of others)
          expect(problemOf(await post(other))).toEqual([422, 'idempotency-key-reused']);
      }),
    ).toEqual([0, 0, 0]);
  });

  test('is the client’s: a rotated API key finds it, another client does not', async () => {
    const intent = { subject: somebody(), idempotency_key: 'rotated' };
    const first = await post(intent);
    const rotated = await post(intent, { key: (await api.makeKey({})).token });
    const other = await post(intent, { key: (await api.makeKey({ client: 'app' })).token });
    expect([rotated.text, rotated.headers['idempotency-replayed']]).toEqual([first.text, 'true']);
    expect([other.status, other.json.outcome, other.headers['idempotency-replayed']]).toEqual([
      200,
      'already_opted_out',
      undefined,
    ]);
  });

  test('may be used again by a corrected request: only a 2xx is remembered', async () => {
    const subject = somebody();
    const wrong = await post({ subject, scope: {}, idempotency_key: 'corrected' });
    const ahead = await post({ subject, effective_at: '2999-01-01T00:00:00Z', idempotency_key: 'corrected' });
    const right = await post({ subject, idempotency_key: 'corrected' });
    expect([wrong.status, ahead.status, right.status]).toEqual([422, 422, 201]);
  });

  test('still running in another process is waited for, and beyond a second is 409', async () => {
    const intent = { subject: somebody(), idempotency_key: 'running' };
    const first = await post(intent);
    // The other process is in the middle of its transaction: the key's row is written and not yet committed.
    await withClient(api.t.db.superuserUrl, async (other) => {
      await other.query(
        'create temporary table kept as select * from idempotency_keys where opt_out_id = $1',
        [first.json.id],
      );
      await other.query('delete from idempotency_keys where opt_out_id = $1', [first.json.id]);
      await other.query('begin');
      await other.query('insert into idempotency_keys select * from kept');
      const busy = await post(intent);
      expect(problemOf(busy)).toEqual([409, 'idempotency-key-in-use']);
      expect(busy.headers['retry-after']).toBe('1');
      await other.query('commit');
    });
    const replay = await post(intent);
    expect([replay.text, replay.headers['idempotency-replayed']]).toEqual([first.text, 'true']);
  });

  test('that waits less than that gets the answer of the one that ran', async () => {
    const intent = { subject: somebody(), idempotency_key: 'waited' };
    const first = await post(intent);
    await withClient(api.t.db.superuserUrl, async (other) => {
      await other.query(
        'create temporary table kept as select * from idempotency_keys where opt_out_id = $1',
        [first.json.id],
      );
      await other.query('delete from idempotency_keys where opt_out_id = $1', [first.json.id]);
      await other.query('begin');
      await other.query('insert into idempotency_keys select * from kept');
      const [{ text, headers }] = await Promise.all([post(intent), commitOnceWaitedFor(other)]);
      expect([text, headers['idempotency-replayed']]).toEqual([first.text, 'true']);
    });
  });
});

describe('Prefer: wait', () => {
  const worker = async (name: string) => {
    const key = await api.workerKey(name);
    return async (id: string) => {
      const { json } = await api.send('GET', `/v1/stores/${name}/outstanding?limit=2000`, {
        key,
        headers: { Prefer: 'wait=10' },
      });
      const decision = json.decisions.find((one: { opt_out_id: string }) => one.opt_out_id === id);
      const { json: answer } = await api.send('POST', '/v1/acknowledgements', {
        key,
        body: {
          store: name,
          generation: json.generation,
          worker: { id: 'w', incarnation: 'i', source: { kind: 'http', status: 'ok', parked: 0 } },
          acknowledgements: [
            {
              seq: decision.seq,
              version: decision.version,
              outcome: 'verified',
              held: { version: decision.version, suppressed: Object.keys(decision.suppressed) },
              carried_by: 'stream',
              attempts: 1,
            },
          ],
        },
      });
      expect(answer.accepted).toBe(1);
    };
  };
  const newestId = async (): Promise<string | undefined> =>
    (await api.t.pool.query<{ id: string }>('select id from opt_outs order by id desc limit 1')).rows[0]?.id;

  test('holds the answer until every required store has confirmed, and what is kept for retries is the first one', async () => {
    const [crm, mail] = [await worker('crm'), await worker('mail')];
    const body = { subject: somebody(), scope: { email: true }, idempotency_key: 'waits' };
    const before = await newestId();
    const waiting = post(body, { headers: { Prefer: 'wait=20' } });
    const id = await eventually(async () => {
      const newest = await newestId();
      expect(newest).not.toBe(before);
      return newest!;
    });
    await crm(id);
    await mail(id);
    const { status, json, headers } = await waiting;
    expect([status, headers['preference-applied'], headers.vary]).toEqual([201, 'wait=20', 'Prefer']);
    expect(json.propagation).toEqual({
      state: 'complete',
      required: 2,
      confirmed: 2,
      verified: 2,
      uncovered: [],
      url: `/v1/opt-outs/${id}/propagation`,
    });
    const plain = await post(body);
    expect(plain.json.propagation).toMatchObject({ state: 'pending', confirmed: 0 });
    const live = await post(body, { headers: { Prefer: 'wait=0' } });
    expect([live.text.replace(/"propagation":.*/, ''), live.json.propagation.state]).toEqual([
      plain.text.replace(/"propagation":.*/, ''),
      'complete',
    ]);
    const propagation = await api.send('GET', `/v1/opt-outs/${id}/propagation`, { key: api.key });
    expect(propagation.json).toMatchObject({
      id,
      state: 'complete',
      required: 2,
      confirmed: 2,
      verified: 2,
      first_completed_at: expect.stringMatching(INSTANT),
      stores: [
        { store: 'crm', required: true, state: 'verified', attempts: 1 },
        { store: 'mail', required: true, state: 'verified', attempts: 1 },
      ],
    });
  });

  test('answers when its time is over', async () => {
    const began = performance.now();
    const { status, json, headers } = await post(
      { subject: somebody(), scope: { email: true } },
      { headers: { Prefer: 'wait=1' } },
    );
    expect([status, json.propagation.state, headers['preference-applied']]).toEqual([
      201,
      'pending',
      'wait=1',
    ]);
    expect(performance.now() - began).toBeGreaterThan(990);
  });

  test('holds no connection to the database: more may wait than there are, and the API goes on', async () => {
    const { opt_outs: before } = await counts();
    const clients = new AbortController();
    const waiting = Array.from({ length: 20 }, () =>
      api.send('POST', '/v1/opt-outs', {
        key: api.key,
        body: { subject: somebody(), scope: { email: true } },
        headers: { Prefer: 'wait=30' },
        signal: clients.signal,
      }),
    );
    const ended = Promise.allSettled(waiting);
    await eventually(async () => expect((await counts()).opt_outs).toBe(before + 20));
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => post({ subject: somebody(), scope: { email: true } })),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(201));
    clients.abort();
    expect((await ended).map(({ status }) => status)).toEqual(Array(20).fill('rejected'));
  });

  test('does not wait for what no store will ever confirm', async () => {
    const { json } = await post(
      { subject: { push_token: 'fcm:2' }, scope: { push: true } },
      { headers: { Prefer: 'wait=30' } },
    );
    expect(json.propagation.state).toBe('uncovered');
  });
});
