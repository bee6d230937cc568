import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createItemSchema } from '../../../api/v1/checks.ts';
import type { CheckItem } from '../../../ledger/contract/checks.ts';
import { AbideError } from '../../../suppression/errors.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { AT, ID } from '../stub-ledger.ts';

const asked: CheckItem[] = [];
let api: ServedStub;
beforeAll(async () => {
  // Everybody whose address begins with "no" has opted out.
  api = await serveStub({
    checkSendable: (items) => {
      asked.push(...items);
      return Promise.resolve({
        asOf: AT,
        items: items.map(({ subjects }) => {
          const canSend = !subjects.some(({ value }) => value.reveal().startsWith('no'));
          return {
            canSend,
            reason: canSend ? undefined : ('opted_out' as const),
            optOutId: canSend ? undefined : ID,
            effectiveAt: canSend ? undefined : AT,
          };
        }),
      });
    },
  });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});
beforeEach(() => {
  asked.length = 0;
});

const check = (body: unknown) => api.send('POST', '/v1/checks', { key: 'shop', body });
const email = (address: string, fields: object = {}) => ({
  subject: { email: address },
  channel: 'email',
  ...fields,
});

const SENDABLE = { can_send: true, reason: null, opt_out_id: null, effective_at: null };
const OPTED_OUT = { can_send: false, reason: 'opted_out', opt_out_id: ID, effective_at: AT };
const INVALID = { can_send: false, reason: 'invalid_item', opt_out_id: null, effective_at: null };

test('items are answered in order, each with its ref, and a bad one among them stops no other', async () => {
  const { status, text } = await check({
    items: [
      email('yes@example.com', { ref: 'a' }),
      email('nobody', { ref: 'bad' }),
      email('no@example.com', { ref: 'a' }),
      null,
      email('yes@example.com'),
    ],
  });
  expect([status, text]).toEqual([
    200,
    JSON.stringify({
      as_of: AT,
      items: [
        { ref: 'a', ...SENDABLE },
        { ref: 'bad', ...INVALID },
        { ref: 'a', ...OPTED_OUT },
        INVALID,
        SENDABLE,
      ],
    }),
  ]);
});

test('every identifier of an item goes to the ledger in its normal form, with channel and topic', async () => {
  await check({
    items: [
      {
        subjects: [{ email: ' Ada@Example.COM' }, { phone: '+44 20 7183 8750' }, { person_id: 'p' }],
        channel: 'sms',
        topic: 'weekly.news-1',
      },
    ],
  });
  const [item] = asked;
  expect(item!.subjects.map(({ kind, value }) => [kind, value.reveal()])).toEqual([
    ['email', 'ada@example.com'],
    ['phone', '+442071838750'],
    ['person_id', 'p'],
  ]);
  expect(item!.scope).toBe('sms/weekly.news-1');
});

test('one suppressed identifier among many suppresses the item', async () => {
  const subjects = [
    ...Array.from({ length: 19 }, (_, n) => ({ email: `yes${n}@example.com` })),
    { person_id: 'no' },
  ];
  expect((await check({ items: [{ subjects, channel: 'email' }] })).json.items).toEqual([OPTED_OUT]);
});

test.each([
  ['no object', 'text'],
  ['an array', [email('yes@example.com')]],
  ['no channel', { subject: { email: 'yes@example.com' } }],
  ['no such channel', email('yes@example.com', { channel: 'fax' })],
  ['a topic as channel', email('yes@example.com', { channel: 'email/news' })],
  ['a channel of a prototype', email('yes@example.com', { channel: 'constructor' })],
  ['no subject', { channel: 'email' }],
  ['both forms of subject', email('yes@example.com', { subjects: [{ email: 'yes@example.com' }] })],
  ['no subjects', { subjects: [], channel: 'email' }],
  ['too many subjects', { subjects: Array(21).fill({ email: 'yes@example.com' }), channel: 'email' }],
  ['subjects that are no list', { subjects: { email: 'yes@example.com' }, channel: 'email' }],
  [
    'a bad one among its subjects',
    { subjects: [{ email: 'yes@example.com' }, { phone: '1' }], channel: 'email' },
  ],
  ['two identifiers in one', { subject: { email: 'yes@example.com', person_id: 'p' }, channel: 'email' }],
  ['an unknown identifier', { subject: { fax: '1' }, channel: 'email' }],
  ['an identifier that is null', { subject: { email: null }, channel: 'email' }],
  ['an unknown member', email('yes@example.com', { chanel: 'email' })],
  ['a topic that is none', email('yes@example.com', { topic: 'News' })],
  ['a topic that is null', email('yes@example.com', { topic: null })],
  ['a ref that is no text', email('yes@example.com', { ref: 7 })],
  ['a ref that is null', email('yes@example.com', { ref: null })],
  ['a ref that is too long', email('yes@example.com', { ref: 'x'.repeat(256) })],
])('an item with %s is invalid: do not send', async (_what, item) => {
  const { status, json } = await check({ items: [item] });
  expect([status, json.items]).toEqual([200, [INVALID]]);
  expect(asked).toEqual([]);
});

test('a prototype smuggled into an item is an unknown member', async () => {
  const answer = await check(
    '{"items":[{"subject":{"email":"yes@example.com"},"channel":"email","__proto__":{}}]}',
  );
  expect(answer.json.items).toEqual([INVALID]);
});

describe('the envelope', () => {
  test.each([
    [{}, ['/items']],
    [{ items: null }, ['/items']],
    [{ items: {} }, ['/items']],
    [{ items: [], mode: 'fast' }, ['/mode']],
    [[], ['']],
    [{ items: Array(1_001).fill(email('yes@example.com')) }, ['/items']],
  ])('that is bad is 422: %#', async (body, pointers) => {
    expect(problemOf(await check(body))).toEqual([422, 'invalid-value', pointers]);
  });

  test('holds a thousand items and may hold none', async () => {
    const { json } = await check({ items: Array(1_000).fill(email('yes@example.com')) });
    expect(json.items).toHaveLength(1_000);
    expect((await check({ items: [] })).json).toEqual({ as_of: AT, items: [] });
  });
});

test('what the topic says is passed through', async () => {
  await using topic = await serveStub({
    checkSendable: () =>
      Promise.resolve({
        asOf: AT,
        items: [{ canSend: false, reason: 'topic_required', optOutId: ID, effectiveAt: AT }],
      }),
  });
  const { json } = await topic.send('POST', '/v1/checks', {
    key: 'shop',
    body: { items: [email('a@example.com')] },
  });
  expect(json.items).toEqual([{ ...OPTED_OUT, reason: 'topic_required' }]);
});

test('a ledger that cannot be asked answers nothing: no answer means do not send', async () => {
  await using away = await serveStub({
    checkSendable: () => Promise.reject(new AbideError('ledger-unavailable')),
  });
  const answer = await away.send('POST', '/v1/checks', {
    key: 'shop',
    body: { items: [email('a@example.com')] },
  });
  expect(problemOf(answer)).toEqual([503, 'ledger-unavailable']);
});

test('an item is read exactly where the schema in the document takes it', async () => {
  const Item = createItemSchema(undefined);
  const text = fc.constantFrom('a@example.com', '+41791234567', 'no address', '', 'x'.repeat(300));
  const any = fc.oneof(text, fc.constantFrom(null, 0, true, [], {}));
  const subject = fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom({ email: 'a@example.com' }, { person_id: '17' }) },
    fc.dictionary(fc.constantFrom('email', 'phone', 'push_token', 'person_id', 'other'), any, { maxKeys: 2 }),
    any,
  );
  const item = fc.record(
    {
      ref: fc.oneof(text, any),
      subject,
      subjects: fc.oneof(
        fc.array(subject, { maxLength: 3 }),
        fc.constant(Array(21).fill({ person_id: '1' })),
        any,
      ),
      channel: fc.oneof({ weight: 8, arbitrary: fc.constantFrom('email', 'sms', 'push') }, text),
      topic: fc.oneof({ weight: 3, arbitrary: fc.constantFrom('newsletter', 'a.b') }, fc.constant('Ä'), any),
      other: any,
    },
    { requiredKeys: ['channel'] },
  );
  const items = fc.sample(item, { numRuns: 1_000, seed: 7 });
  const { json } = await check({ items });
  const isRead = json.items.map(({ reason }: { reason: string | null }) => reason !== 'invalid_item');
  expect(isRead).toEqual(items.map((one) => Item.safeParse(one).success));
  expect(isRead).toContain(true);
});
