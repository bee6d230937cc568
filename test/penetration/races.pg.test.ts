// Races: the same thing at once, many times, at one process and at several, so that it might be done twice or halfway.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { answered, problemOf } from '../harness/http.ts';
import type { Answer, Send } from '../harness/http.ts';
import { countRows } from './unchanged.ts';

const MANY = 100;

let api: ServedToClients;
/** The first is the one that `api` is served by. */
let processes: readonly Send[];
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
  const others = await Promise.all(
    Array.from({ length: 3 }, async () => await api.serve(await api.t.another())),
  );
  processes = [api.send, ...others];
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

let people = 0;
/** Somebody whom no other test knows. */
const somebody = () => ({ email: `person${(people += 1)}@example.com` });

/** All at once, in turns at the processes; gives what came of it, and what was added. */
async function race(
  ask: (send: Send, n: number) => Promise<Answer>,
  at = processes,
): Promise<{ answers: Answer[]; added: Record<string, number> }> {
  const before = await countRows(api.t);
  const answers = await Promise.all(
    Array.from({ length: MANY }, (_, n) => answered(() => ask(at[n % at.length]!, n))),
  );
  const after = await countRows(api.t);
  const added = Object.fromEntries(Object.entries(after).map(([table, n]) => [table, n - before[table]!]));
  return { answers, added };
}
const post =
  (body: object, key = api.key) =>
  (send: Send) =>
    send('POST', '/v1/opt-outs', { key, body });
const isGood = ({ status }: Answer): boolean => status < 300;
const counts = (values: readonly string[]): Record<string, number> =>
  Object.fromEntries(
    [...new Set(values)].map((value) => [value, values.filter((one) => one === value).length]),
  );
const maySend = async (subject: object): Promise<boolean> => {
  const items = [{ subject, channel: 'email' }];
  return (await api.send('POST', '/v1/checks', { key: api.key, body: { items } })).json.items[0].can_send;
};

describe('a hundred of one key and one intent', () => {
  test('at one process are one opt-out, and everybody gets the same bytes', async () => {
    const { answers, added } = await race(post({ subject: somebody(), idempotency_key: 'one-process' }), [
      api.send,
    ]);
    expect(added).toMatchObject({ opt_outs: 1, decisions: 1, subjects: 1, idempotency_keys: 1 });
    expect(
      new Set(answers.map(({ text, status, headers }) => `${status} ${headers.location} ${text}`)).size,
    ).toBe(1);
    expect(answers.filter(({ headers }) => headers['idempotency-replayed'] === undefined)).toHaveLength(1);
  });

  test('at four processes are one opt-out, and everybody who gets a 2xx gets the same bytes', async () => {
    const { answers, added } = await race(post({ subject: somebody(), idempotency_key: 'four-processes' }));
    expect(added).toMatchObject({ opt_outs: 1, decisions: 1, subjects: 1, idempotency_keys: 1 });
    const good = answers.filter(isGood);
    expect(new Set(good.map(({ text, status }) => `${status} ${text}`)).size).toBe(1);
    expect(good.filter(({ headers }) => headers['idempotency-replayed'] === undefined).length).toBeLessThan(
      2,
    );
    for (const answer of answers)
      if (!isGood(answer)) expect(problemOf(answer)).toEqual([409, 'idempotency-key-in-use']);
  });

  test('of two clients are one opt-out of each', async () => {
    const { token } = await api.makeKey({ client: 'another' });
    const bodies = [somebody(), somebody()].map((subject) => ({
      subject,
      idempotency_key: 'of-two-clients',
    }));
    const { answers, added } = await race(
      (send, n) => post(bodies[n % 2]!, n % 2 === 0 ? api.key : token)(send),
      [api.send],
    );
    expect(added).toMatchObject({ opt_outs: 2, decisions: 2, idempotency_keys: 2 });
    expect(new Set(answers.map(({ text }) => text)).size).toBe(2);
  });
});

describe('a hundred of one key and a hundred intents', () => {
  test.each([
    ['one process', 1],
    ['four processes', 4],
  ])(
    'at %s: one is recorded, the others are refused, and of their people nobody is suppressed',
    async (name, n) => {
      const subjects = Array.from({ length: MANY }, somebody);
      const key = `hundred-intents-${n}`;
      const { answers, added } = await race(
        (send, at) => post({ subject: subjects[at], idempotency_key: key })(send),
        processes.slice(0, n),
      );
      expect([name, added]).toMatchObject([
        name,
        { opt_outs: 1, decisions: 1, subjects: 1, idempotency_keys: 1 },
      ]);
      expect(answers.filter(isGood)).toHaveLength(1);
      for (const answer of answers)
        if (!isGood(answer))
          expect([
            [422, 'idempotency-key-reused'],
            [409, 'idempotency-key-in-use'],
          ]).toContainEqual(problemOf(answer));
      const reachable = await Promise.all(subjects.map(maySend));
      expect(reachable.indexOf(false)).toBe(answers.findIndex(isGood));
      expect(reachable.filter((is) => !is)).toHaveLength(1);
    },
  );
});

describe('a hundred without a key', () => {
  test('of one person are one opt-out', async () => {
    const { answers, added } = await race(post({ subject: somebody() }));
    expect(added).toMatchObject({ opt_outs: 1, decisions: 1, subjects: 1, idempotency_keys: 0 });
    expect(new Set(answers.map(({ json }) => json.id)).size).toBe(1);
    expect(counts(answers.map(({ status, json }) => `${status} ${json.outcome}`))).toEqual({
      '201 recorded': 1,
      '200 already_opted_out': MANY - 1,
    });
  });

  test('of one person, each for one channel, lose no channel', async () => {
    const subject = somebody();
    const channels = ['email', 'sms', 'push'];
    const { answers, added } = await race((send, n) =>
      post({ subject, scope: { [channels[n % 3]!]: true } })(send),
    );
    expect(answers.every(isGood)).toBe(true);
    expect(added).toMatchObject({ opt_outs: 3, decisions: 3, subjects: 1 });
    const { json } = await api.send('POST', '/v1/subjects/lookup', { key: api.key, body: { subject } });
    expect(json.scope).toEqual({ email: true, sms: true, push: true });
  });
});

describe('a hundred grants at once', () => {
  const HOUR = 3_600_000;
  const ago = (ms: number): string => new Date(Date.now() - ms).toISOString();
  const grant =
    (identifier: object, fields: object = {}, headers: Record<string, string> = {}) =>
    (send: Send) =>
      send('POST', '/v2/grants', {
        key: api.key,
        headers,
        body: {
          identifier,
          scopes: ['email'],
          granted_at: ago(HOUR),
          evidence: {
            method: 'preference_center',
            statement: 'Yes, write to me again.',
            source: 'https://example.com',
          },
          ...fields,
        },
      });

  test('of one consent lift once', async () => {
    const subject = somebody();
    await post({ subject, effective_at: ago(2 * HOUR) })(api.send);
    const body = { granted_at: ago(HOUR) };
    const { answers, added } = await race((send) =>
      grant(subject, body, { 'Idempotency-Key': 'one-consent' })(send),
    );
    expect(added.decisions).toBe(1);
    expect(new Set(answers.filter(isGood).map(({ text }) => text)).size).toBe(1);
    for (const answer of answers)
      if (!isGood(answer)) expect(problemOf(answer)).toEqual([409, 'idempotency-key-in-use']);
    expect(await maySend(subject)).toBe(true);
  });

  test('without a key lift once as well', async () => {
    const subject = somebody();
    await post({ subject, effective_at: ago(2 * HOUR) })(api.send);
    const body = { granted_at: ago(HOUR) };
    const { answers, added } = await race(grant(subject, body));
    expect(added.decisions).toBe(1);
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect(await maySend(subject)).toBe(true);
  });

  test('of one key and a hundred people lift of one of them', async () => {
    const subjects = Array.from({ length: MANY }, somebody);
    await Promise.all(subjects.map((subject) => post({ subject, effective_at: ago(2 * HOUR) })(api.send)));
    const { answers, added } = await race((send, n) =>
      grant(subjects[n]!, { granted_at: ago(HOUR) }, { 'Idempotency-Key': 'hundred-people' })(send),
    );
    expect(added.decisions).toBe(1);
    expect(answers.filter(isGood)).toHaveLength(1);
    const reachable = await Promise.all(subjects.map(maySend));
    expect(reachable.filter(Boolean)).toHaveLength(1);
    expect(reachable.indexOf(true)).toBe(answers.findIndex(isGood));
  });

  // Whichever comes first, the opt-out stands: it is later than the consent, and wins a tie.
  test('and a hundred later opt-outs leave the person opted out', async () => {
    const subject = somebody();
    await post({ subject, effective_at: ago(2 * HOUR) })(api.send);
    const [consented, refused] = [ago(HOUR), ago(HOUR - 1)];
    const { answers } = await race((send, n) =>
      n % 2 === 0
        ? grant(subject, { granted_at: consented })(send)
        : post({ subject, effective_at: refused })(send),
    );
    expect(answers.filter(({ status }) => status >= 500)).toEqual([]);
    expect(await maySend(subject)).toBe(false);
  });

  test('at the very moment of the opt-out leave the person opted out', async () => {
    const subject = somebody();
    const at = ago(HOUR);
    const { answers } = await race((send, n) =>
      n % 2 === 0 ? grant(subject, { granted_at: at })(send) : post({ subject, effective_at: at })(send),
    );
    expect(answers.filter(({ status }) => status >= 500)).toEqual([]);
    expect(await maySend(subject)).toBe(false);
  });
});
