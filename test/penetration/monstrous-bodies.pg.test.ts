// Bodies meant to exhaust, to crash or to slip through: too large, too deep, too wide, broken, or made of what takes long to read.
// Each is refused, quickly and in few words; nothing is recorded, and the next request is answered.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { operationsOf, VERSIONS } from '../../api/versions.ts';
import type { Operation } from '../../api/operation.ts';
import { ADMINISTRATOR_SCOPES } from '../../ledger/contract/api-keys.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import type { Answer } from '../harness/http.ts';
import { countRows } from './unchanged.ts';

const MEBIBYTE = 1024 * 1024;
/** Below the largest limit of any call. */
const LARGE = 1.9 * MEBIBYTE;
/** Ten times what the worst of these takes; without a guard some take that much again, or go on for ever. */
const CPU_MS_MAX = 3_000;
/** Of a call's processor time, whatever the machine. Without turns it is nearly all of it. */
const LONGEST_TURN_SHARE_MAX = 1 / 2;
const ANSWER_BYTES_MAX = 128 * 1024;

let api: ServedToClients;
let keys: { client: string; worker: string };
let before: Record<string, number>;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
  keys = {
    client: (await api.makeKey({ client: 'all', scopes: ADMINISTRATOR_SCOPES })).token,
    worker: await api.workerKey('crm'),
  };
  before = await countRows(api.t);
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const POSTS: readonly Operation[] = Object.keys(VERSIONS)
  .flatMap(operationsOf)
  .filter(({ body }) => body !== undefined);

const post = (operation: Operation, body: string | Buffer): Promise<Answer> =>
  api.send('POST', operation.path.replace(':name', 'crm'), {
    key: operation.tag === 'Workers' ? keys.worker : keys.client,
    body,
  });

/** What it cost this process, which both serves and asks. */
async function cpuMs(work: () => Promise<unknown>): Promise<number> {
  const began = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(began);
  return (user + system) / 1_000;
}

/** The share of its CPU time that passed, at the most, without anybody else having a turn. */
async function longestTurnShare(work: () => Promise<unknown>): Promise<number> {
  let [longest, all, isOver] = [0, 0, false];
  const working = work().finally(() => (isOver = true));
  while (!isOver) {
    const turn = await cpuMs(nextTurn);
    longest = Math.max(longest, turn);
    all += turn;
  }
  await working;
  return longest / all;
}

const repeated = (text: string, bytes = LARGE): string => text.repeat(Math.floor(bytes / text.length));

const BROKEN: Record<string, [body: string | Buffer, status: number]> = {
  'larger than anything that is read': [`"${'x'.repeat(3 * MEBIBYTE)}"`, 413],
  'nested as deep as its size allows': [repeated('['), 400],
  'nested and closed again': [`${repeated('[', LARGE / 2)}${repeated(']', LARGE / 2)}`, 400],
  'of objects within objects': [`${'{"a":'.repeat(300_000)}1${'}'.repeat(300_000)}`, 400],
  'of nothing but quotes': [repeated('"'), 400],
  'of nothing but backslashes': [`"${repeated('\\\\')}`, 400],
  'of nothing but spaces': [repeated(' '), 400],
  'of bytes that are no text': [Buffer.alloc(1024, 0xff), 400],
  'overlong: a slash in two bytes': [Buffer.from('7b22c0af223a317d', 'hex'), 400],
  'in UTF-16': [Buffer.from('{"subject":{"email":"ada@example.com"}}', 'utf16le'), 400],
  'with a NUL behind it': ['{}\0', 400],
  'that ends in the middle of a character': [Buffer.from('{"a":"\u20ac').subarray(0, -1), 400],
  'a number without end': [`{"a":${repeated('9', 60_000)}}`, 422],
  'a number beyond any': ['{"a":1e999999}', 422],
  'Infinity by name': ['{"a":Infinity}', 400],
  'a text': ['"subject"', 422],
  'a number': ['0', 422],
  null: ['null', 422],
  'an array in place of an object': ['[{"subject":{"email":"ada@example.com"}}]', 422],
};

describe.each(POSTS.map((operation) => [operation.path, operation] as const))(
  'a body for POST %s',
  (_, operation) => {
    test.each(Object.keys(BROKEN))('%s is refused in few words', async (what) => {
      const [body, status] = BROKEN[what]!;
      let answer!: Answer;
      expect(await cpuMs(async () => (answer = await post(operation, body)))).toBeLessThan(CPU_MS_MAX);
      // A call with a smaller limit is over that first.
      expect([status, 413]).toContain(answer.status);
      expect(answer.text.length).toBeLessThan(ANSWER_BYTES_MAX);
    });

    test('with a hundred thousand members that nobody knows is not answered with a hundred thousand faults', async () => {
      const answer = await post(
        operation,
        `{${Array.from({ length: 100_000 }, (_, n) => `"a${n}":1`).join()}}`,
      );
      expect([413, 422]).toContain(answer.status);
      expect(answer.text.length).toBeLessThan(ANSWER_BYTES_MAX);
    });
  },
);

test('of a thousand faults each is named, and of more it is said how many there are', async () => {
  const optOuts = POSTS.find(({ path }) => path === '/v1/opt-outs')!;
  const withMembers = (n: number): string =>
    `{${Array.from({ length: n }, (_, at) => `"m${at % 1_000}_${Math.floor(at / 1_000)}":1`).join()}}`;
  // One more each: the subject is missing.
  const [all, more] = [await post(optOuts, withMembers(999)), await post(optOuts, withMembers(2_999))];
  expect(all.json.errors).toHaveLength(1_000);
  expect(more.json.errors).toHaveLength(1_001);
  expect(more.json.errors.at(-1)).toEqual({ pointer: '', detail: 'has 2000 more faults' });
});

describe('text that takes long to read', () => {
  const check = (subject: object): string => JSON.stringify({ items: [{ channel: 'email', subject }] });
  // Seen: composing a hundred thousand accents on one letter (NFC) held up the process, with all that it serves, for ten seconds;
  // half a million held it up for minutes.
  const TEXTS: Record<string, string> = {
    'accents on one letter': check({ email: `a${'\u0301\u0323'.repeat(120_000)}@example.com` }),
    'accents in the domain': check({ email: `ada@a${'\u0301\u0323'.repeat(120_000)}.com` }),
    'signs at': check({ email: repeated('a@', 900_000) }),
    dots: check({ email: `a@${repeated('a.', 900_000)}com` }),
    'letters beyond ASCII': check({ email: `a@${repeated('ü.', 400_000)}com` }),
    spaces: check({ email: `a${repeated(' ', 900_000)}@example.com` }),
    digits: check({ phone: `+${repeated('1', 900_000)}` }),
    'digits and signs': check({ phone: `+1${repeated(' (-.', 900_000)}` }),
    'a thousand items of twenty identifiers': JSON.stringify({
      items: Array.from({ length: 1_000 }, () => ({
        channel: 'email',
        subjects: Array.from({ length: 20 }, (_, n) => ({ email: `a${n}@ü.co` })),
      })),
    }),
  };

  test.each(Object.keys(TEXTS))('%s', async (name) => {
    let answer!: Answer;
    const cpu = await cpuMs(async () => {
      answer = await api.send('POST', '/v1/checks', { key: keys.client, body: TEXTS[name]! });
    });
    expect(answer.status).toBe(200);
    expect(cpu).toBeLessThan(CPU_MS_MAX);
  });

  // Seen: a phone number loses one superfluous zero each time it is read. Twenty thousand of them held up the process for seconds.
  const phones = Array.from({ length: 20 }, () => ({ phone: '+49000000000000000' }));
  test.each([
    ['/v1/checks', { channel: 'sms', subjects: phones }],
    ['/v2/checks', { scope: 'sms', identifiers: phones }],
  ])(
    'POST %s with twenty thousand phone numbers full of zeroes lets others have their turn',
    async (path, item) => {
      const body = JSON.stringify({ items: Array.from({ length: 1_000 }, () => item) });
      let answer!: Answer;
      const share = await longestTurnShare(async () => {
        answer = await api.send('POST', path, { key: keys.client, body });
      });
      expect(answer.status).toBe(200);
      expect(share).toBeLessThan(LONGEST_TURN_SHARE_MAX);
    },
  );
});

test('nothing of all this is recorded, and the server serves on', async () => {
  expect(await countRows(api.t)).toEqual(before);
  expect((await api.send('GET', '/readyz')).status).toBe(200);
});
