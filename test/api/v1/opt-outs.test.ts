// What about an opt-out concerns only HTTP. What the ledger makes of it is in opt-outs.pg.test.ts.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { ListFilter } from '../../../ledger/contract/opt-outs.ts';
import { problemOf } from '../../harness/http.ts';
import type { Answer } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { AT, FOUND, ID, recordedOf } from '../stub-ledger.ts';

const lists: ListFilter[] = [];
let nextCursor: string | undefined;
let api: ServedStub;
beforeAll(async () => {
  api = await serveStub({
    listOptOuts: (filter) => {
      lists.push(filter);
      return Promise.resolve({ optOuts: [FOUND], nextCursor });
    },
  });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});
beforeEach(() => {
  api.ledger.intents.length = 0;
  lists.length = 0;
  nextCursor = undefined;
});

const ADA = { subject: { email: 'ada@example.com' } };
const post = (fields: object, headers: Record<string, string> = {}, key = 'shop'): Promise<Answer> =>
  api.send('POST', '/v1/opt-outs', { key, body: { ...ADA, ...fields }, headers });
const intentOf = async (fields: object, headers: Record<string, string> = {}) => {
  expect((await post(fields, headers)).status).toBe(201);
  return api.ledger.intents.at(-1)!;
};

describe('the subject', () => {
  test.each([
    ['email', ' Ada@EXAMPLE.com ', 'ada@example.com'],
    ['phone', '+44 20 7183 8750', '+442071838750'],
    ['push_token', ' fcm:AbC ', 'fcm:AbC'],
    ['person_id', 'Person-7', 'Person-7'],
  ])('is exactly one identifier, brought into its normal form: %s', async (kind, given, normal) => {
    const { subjects } = await intentOf({ subject: { [kind]: given } });
    expect(subjects.map((one) => [one.kind, one.value.reveal()])).toEqual([[kind, normal]]);
  });

  test.each([
    [{}, ['/subject']],
    [{ email: 'a@example.com', phone: '+442071838750' }, ['/subject']],
    ['a@example.com', ['/subject']],
    [[], ['/subject']],
    [undefined, ['/subject']],
    [{ email: 'nobody' }, ['/subject/email']],
    [{ email: 7 }, ['/subject/email']],
    [{ phone: '020 7183 8750' }, ['/subject/phone']],
    [{ push_token: ' ' }, ['/subject/push_token']],
    [{ person_id: 'x'.repeat(257) }, ['/subject/person_id']],
    [{ person_id: 'a\u0000b' }, ['/subject/person_id']],
    [{ email: 'nobody', phone: 'nothing' }, ['/subject']],
  ])('%j is refused', async (subject, pointers) => {
    expect(problemOf(await post({ subject }))).toEqual([422, 'invalid-value', pointers]);
    expect(api.ledger.intents).toEqual([]);
  });

  test('may be a phone number without its country where the configuration says which', async () => {
    await using uk = await serveStub({}, { defaultRegion: 'GB' });
    await uk.send('POST', '/v1/opt-outs', { key: 'shop', body: { subject: { phone: '020 7183 8750' } } });
    expect(uk.ledger.intents[0]!.subjects[0]!.value.reveal()).toBe('+442071838750');
  });
});

describe('the scope', () => {
  test.each([
    [undefined, ['email', 'sms', 'push']],
    [{ email: true }, ['email']],
    [{ push: true, email: true }, ['email', 'push']],
    [{ email: true, sms: true, push: true }, ['email', 'sms', 'push']],
    [{ email: false, sms: true }, ['sms']],
  ])('%j asks for %j: absent is all three, a member left out is not asked for', async (scope, scopes) => {
    expect((await intentOf({ scope })).scopes).toEqual(scopes);
  });

  test.each([
    [{}, ['/scope']],
    [{ email: false, sms: false, push: false }, ['/scope']],
    [{ email: 1 }, ['/scope/email']],
    [{ email: 'true' }, ['/scope/email']],
    ['email', ['/scope']],
    [['email'], ['/scope']],
    [{ 'email/newsletter': true, email: true }, ['/scope/(not shown)']],
  ])('%j is refused', async (scope, pointers) => {
    expect(problemOf(await post({ scope }))).toEqual([422, 'invalid-value', pointers]);
  });
});

describe('the date', () => {
  test.each([
    ['2026-11-24T09:00:00Z', '2026-11-24T09:00:00.000Z'],
    ['2026-11-24t09:00:00z', '2026-11-24T09:00:00.000Z'],
    ['2026-11-24 09:00:00Z', '2026-11-24T09:00:00.000Z'],
    ['2026-11-24T10:00:00+01:00', '2026-11-24T09:00:00.000Z'],
    ['2026-11-24T00:30:00.123456+05:30', '2026-11-23T19:00:00.123Z'],
    ['2024-02-29T00:00:00Z', '2024-02-29T00:00:00.000Z'],
    ['1999-12-31T23:59:59.9Z', '1999-12-31T23:59:59.900Z'],
  ])('%s is %s', async (given, instant) => {
    expect((await intentOf({ effective_at: given })).effectiveAt).toBe(instant);
  });

  test('is not made up where it is not stated', async () => {
    expect((await intentOf({})).effectiveAt).toBeUndefined();
  });

  test.each([
    '2026-11-24',
    '2026-11-24T09:00:00',
    '2026-11-24T09:00Z',
    '2026-11-24T24:00:00Z',
    '2026-02-30T09:00:00Z',
    '2025-02-29T00:00:00Z',
    '2026-04-31T00:00:00+14:00',
    '2026-13-01T00:00:00Z',
    '2026-00-10T00:00:00Z',
    '2026-01-00T00:00:00Z',
    '2026-11-24T09:60:00Z',
    '2026-11-24T09:00:00+24:00',
    '2026-11-24T09:00:00+0100',
    '+002026-11-24T09:00:00Z',
    'Tue, 24 Nov 2026 09:00:00 GMT',
    '1763974800',
    '',
    ' 2026-11-24T09:00:00Z',
  ])('%p is refused', async (effective_at) => {
    expect(problemOf(await post({ effective_at }))).toEqual([422, 'invalid-value', ['/effective_at']]);
  });

  test('is text, not a number', async () => {
    expect(problemOf(await post({ effective_at: 1763974800 }))).toEqual([
      422,
      'invalid-value',
      ['/effective_at'],
    ]);
  });

  // Seen: an offset took the last hour of 9999 into the year 10000, whose text (+010000-…) sorts before every other date and is no
  // date to PostgreSQL: a list since then was answered 500.
  test('that its offset takes beyond the year 9999 is refused, wherever a date stands', async () => {
    const beyond = '9999-12-31T23:30:00-01:00';
    expect(problemOf(await post({ effective_at: beyond }))).toEqual([
      422,
      'invalid-value',
      ['/effective_at'],
    ]);
    expect(
      problemOf(await api.send('GET', `/v1/opt-outs?since=${beyond}&until=${beyond}`, { key: 'shop' })),
    ).toEqual([422, 'invalid-value', ['/since', '/until']]);
    expect((await intentOf({ effective_at: '9999-12-31T23:30:00Z' })).effectiveAt).toBe(
      '9999-12-31T23:30:00.000Z',
    );
  });
});

describe('the reason and the note', () => {
  test('default to the person’s own wish, and none', async () => {
    expect(await intentOf({})).toMatchObject({ reason: 'person_request', note: undefined });
  });

  test.each(['person_request', 'complaint', 'legal', 'other'])('%s is a reason', async (reason) => {
    expect((await intentOf({ reason })).reason).toBe(reason);
  });

  test('another reason is refused, and the answer says which there are', async () => {
    const answer = await post({ reason: 'Legal' });
    expect(answer.json.errors).toEqual([
      { pointer: '/reason', detail: 'must be one of person_request, complaint, legal, other' },
    ]);
  });

  test.each(['', 'x'.repeat(500), '🙂'.repeat(500), 'two\nlines\tand a tab', 'é', '‮rtl'])(
    'a note of text is taken as it is',
    async (note) => {
      expect((await intentOf({ note })).note).toBe(note);
    },
  );

  test.each(['x'.repeat(501), '🙂'.repeat(501), 'x'.repeat(5_000), 'a\u0000b', 'a\u0007', 7])(
    'a note that is longer, or no text, is refused',
    async (note) => {
      expect(problemOf(await post({ note }))).toEqual([422, 'invalid-value', ['/note']]);
    },
  );
});

describe('the idempotency key', () => {
  test('may stand in the header, in the body, in both if they agree, or nowhere', async () => {
    const header = { 'Idempotency-Key': 'k' };
    expect((await intentOf({}, header)).idempotencyKey).toBe('k');
    expect((await intentOf({ idempotency_key: 'k' })).idempotencyKey).toBe('k');
    expect((await intentOf({ idempotency_key: 'k' }, header)).idempotencyKey).toBe('k');
    expect((await intentOf({})).idempotencyKey).toBeUndefined();
  });

  test('that differs between the two is 422', async () => {
    const answer = await post({ idempotency_key: 'a' }, { 'Idempotency-Key': 'b' });
    expect(answer.json.errors).toEqual([
      { pointer: '/idempotency_key', detail: 'differs from the Idempotency-Key header' },
    ]);
  });

  test.each(['!', '~', 'x'.repeat(255), '"quoted"', 'a,b'])('%p is one', async (key) => {
    expect((await intentOf({ idempotency_key: key })).idempotencyKey).toBe(key);
    expect((await intentOf({}, { 'Idempotency-Key': key })).idempotencyKey).toBe(key);
  });

  test.each(['', 'a b', 'x'.repeat(256), 'é'])('%p is none, in the header as in the body', async (key) => {
    const expected = [422, 'invalid-value', ['/idempotency_key']];
    expect(problemOf(await post({ idempotency_key: key }))).toEqual(expected);
    expect(problemOf(await post({}, { 'Idempotency-Key': Buffer.from(key).toString('latin1') }))).toEqual(
      expected,
    );
    expect(api.ledger.intents).toEqual([]);
  });

  test('given twice is refused', async () => {
    const answer = await api.send('POST', '/v1/opt-outs', {
      key: 'shop',
      body: ADA,
      headers: { 'Idempotency-Key': ['a', 'b'] },
    });
    expect(problemOf(answer)).toEqual([422, 'invalid-value', ['/idempotency_key']]);
  });
});

test('a traceparent goes along where it is one, and nowhere else', async () => {
  const good = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
  expect((await intentOf({}, { traceparent: good })).traceparent).toBe(good);
  for (const bad of ['00-x-y-01', good.toUpperCase(), `${good}-ada@example.com`])
    expect((await intentOf({}, { traceparent: bad })).traceparent).toBeUndefined();
});

describe('the answer', () => {
  test('has these members in this order, and says what a channel needs another identifier for', async () => {
    await using fixed = await serveStub({
      record: (intent, render) =>
        Promise.resolve({
          status: 201,
          body: render(recordedOf(intent)),
          replayed: false,
          optOutId: ID,
          decisions: [],
        }),
    });
    const { status, headers, text } = await fixed.send('POST', '/v1/opt-outs', {
      key: 'shop',
      body: { ...ADA, scope: { email: true, sms: true }, effective_at: AT, idempotency_key: 'k' },
    });
    expect([status, headers.location, headers['content-type'], headers['idempotency-replayed']]).toEqual([
      201,
      `/v1/opt-outs/${ID}`,
      'application/json; charset=utf-8',
      undefined,
    ]);
    expect(text).toBe(
      JSON.stringify({
        object: 'opt_out',
        api_version: 'v1',
        id: ID,
        outcome: 'recorded',
        subject: { kind: 'email', masked: 'a••@e••.com' },
        requested_scope: { email: true, sms: true, push: false },
        scope: { email: true, sms: true, push: false },
        effective: { email: AT, sms: AT, push: null },
        effective_at: AT,
        received_at: AT,
        recorded_at: AT,
        idempotency_key: 'k',
        warnings: [
          {
            code: 'channel_needs_other_identifier',
            channel: 'sms',
            detail: 'sms reaches people by a phone number: opt that out as well.',
          },
        ],
        propagation: {
          state: 'pending',
          required: 3,
          confirmed: 0,
          verified: 0,
          uncovered: [],
          url: `/v1/opt-outs/${ID}/propagation`,
        },
      }),
    );
  });

  test.each([
    [{ email: 'a@example.com' }, ['sms', 'push']],
    [{ phone: '+442071838750' }, ['email', 'push']],
    [{ push_token: 't' }, ['email', 'sms']],
    [{ person_id: 'p' }, []],
  ])('of %j warns of %j where all three were asked for', async (subject, channels) => {
    const { json } = await post({ subject });
    expect(json.warnings.map(({ channel }: { channel: string }) => channel)).toEqual(channels);
  });

  test('says where a date ahead was taken as the time of receipt, before the warnings', async () => {
    await using adjusted = await serveStub({
      record: (intent, render) =>
        Promise.resolve({
          status: 201,
          body: render({ ...recordedOf(intent), effectiveAtAdjusted: true }),
          replayed: false,
          optOutId: ID,
          decisions: [],
        }),
    });
    const { json } = await adjusted.send('POST', '/v1/opt-outs', { key: 'shop', body: ADA });
    expect(json.adjustments).toEqual([
      { code: 'effective_at_in_future', pointer: '/effective_at', detail: expect.any(String) },
    ]);
    expect(Object.keys(json).slice(-4)).toEqual([
      'idempotency_key',
      'adjustments',
      'warnings',
      'propagation',
    ]);
  });
});

describe('reading back', () => {
  test('has the members of the answer, with what holds now', async () => {
    const { status, text } = await api.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
    expect([status, text]).toEqual([
      200,
      JSON.stringify({
        object: 'opt_out',
        api_version: 'v1',
        id: ID,
        outcome: 'recorded',
        in_force: true,
        subject: { kind: 'email', masked: 'a••@e••.com' },
        requested_scope: { email: true, sms: true, push: false },
        scope: { email: true, sms: true, push: false },
        effective: { email: AT, sms: AT, push: null },
        effective_at: AT,
        received_at: AT,
        recorded_at: AT,
        idempotency_key: 'one',
        warnings: [
          {
            code: 'channel_needs_other_identifier',
            channel: 'sms',
            detail: 'sms reaches people by a phone number: opt that out as well.',
          },
        ],
        propagation: {
          state: 'pending',
          required: 3,
          confirmed: 0,
          verified: 0,
          uncovered: [],
          url: `/v1/opt-outs/${ID}/propagation`,
        },
      }),
    ]);
  });

  test('of an erased subject shows nobody', async () => {
    await using erased = await serveStub({
      findOptOut: () =>
        Promise.resolve({ ...FOUND, subjects: [{ ...FOUND.subjects[0]!, masked: undefined }] }),
    });
    const { json } = await erased.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
    expect(json.subject).toEqual({ kind: 'email', masked: null });
  });

  test('another client’s is 404 as if it were not there, except for opt_outs:read_all', async () => {
    for (const path of [`/v1/opt-outs/${ID}`, `/v1/opt-outs/${ID}/propagation`]) {
      const foreign = await api.send('GET', path, { key: 'other' });
      const missing = await api.send('GET', path.replace(ID, `${ID.slice(0, -1)}9`), { key: 'other' });
      expect(foreign.status).toBe(404);
      expect({ ...foreign.json, request_id: '' }).toEqual({ ...missing.json, request_id: '' });
      expect((await api.send('GET', path, { key: 'auditor' })).status).toBe(200);
    }
  });
});

describe('the list', () => {
  const list = (query: string, key = 'shop') => api.send('GET', `/v1/opt-outs${query}`, { key });

  test('is of its own client, 20 at a time, unless it says otherwise', async () => {
    const { text } = await list('');
    const { text: all } = await list('', 'auditor');
    expect(lists.map(({ client, limit }) => [client, limit])).toEqual([
      ['shop', 20],
      [undefined, 20],
    ]);
    const { text: one } = await api.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
    expect(text).toBe(`{"object":"list","opt_outs":[${one}],"next_cursor":null}`);
    expect(all).toBe(text);
  });

  test('passes every filter on', async () => {
    await list(
      `?limit=100&cursor=abc&since=2026-01-01T00:00:00Z&until=2026-02-01T00:00:00%2B01:00&state=complete&store=crm&reason=legal`,
    );
    expect(lists).toEqual([
      {
        client: 'shop',
        limit: 100,
        cursor: 'abc',
        since: '2026-01-01T00:00:00.000Z',
        until: '2026-01-31T23:00:00.000Z',
        state: 'complete',
        store: 'crm',
        reason: 'legal',
      },
    ]);
  });

  test('links to its next page with the same filters, until there is none', async () => {
    nextCursor = 'a+b/c=';
    const page = await list('?limit=1&reason=legal&cursor=zzz');
    expect(page.json.next_cursor).toBe(nextCursor);
    expect(page.headers.link).toBe('</v1/opt-outs?limit=1&reason=legal&cursor=a%2Bb%2Fc%3D>; rel="next"');
    nextCursor = undefined;
    const last = await list('?limit=1');
    expect([last.json.next_cursor, last.headers.link]).toEqual([null, undefined]);
  });

  test.each([
    ['?limit=0', ['/limit']],
    ['?limit=101', ['/limit']],
    ['?limit=-1', ['/limit']],
    ['?limit=1e1', ['/limit']],
    ['?limit=0x10', ['/limit']],
    ['?limit=', ['/limit']],
    ['?limit=1&limit=2', ['/limit']],
    ['?since=yesterday&until=2026-01-01', ['/since', '/until']],
    ['?state=done', ['/state']],
    ['?reason=because', ['/reason']],
    [`?cursor=${'x'.repeat(201)}`, ['/cursor']],
    [`?store=${'x'.repeat(64)}`, ['/store']],
    ['?limt=1', ['/limt']],
    ['?client=other', ['/client']],
    ['?__proto__=1', ['/__proto__']],
  ])('%s is refused by name', async (query, pointers) => {
    expect(problemOf(await list(query))).toEqual([422, 'invalid-value', pointers]);
    expect(lists).toEqual([]);
  });
});
